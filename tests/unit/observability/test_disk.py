"""A disk without space is told in words; terminals, pipes and unknown places are not disks."""

from __future__ import annotations

import os

from services.observability import disk


def test_a_disk_with_space_is_not_told(tmp_path, monkeypatch):
    assert disk.shortage(tmp_path) is None
    monkeypatch.setattr(disk, "SCARCE_BYTES", 2**80)
    assert str(disk.shortage(tmp_path)).startswith("the disk with the logs is full (")


def test_what_is_no_disk_is_never_full(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "SCARCE_BYTES", 2**80)
    reading, writing = os.pipe()
    assert disk.shortage(writing) is None
    for end in (reading, writing):
        os.close(end)
    assert disk.shortage(tmp_path / "gone") is None
    with (tmp_path / "log").open("wb") as log:
        assert disk.shortage(log.fileno()) is not None
