"""The disk with Ray's folder is full: answers go on, the service says so, and a lost draft returns with the space."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from load_tests.faults.small_disk import AS_ROOT, can_mount, small_disk
from tests.e2e.server import ROOT, Server, body, events, running, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

NUM_STREAMS = 4
FULL_FOR_S = 10.0
"""Long enough for several starts of a draft that fail."""


def reasons(server: Server) -> str:
    with server.client() as client:
        ready = client.get("/ready")
    assert ready.status_code == 200
    return " ".join(ready.json()["reasons"])


def test_a_full_disk_cuts_no_stream_and_is_told(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if not can_mount():
        if not can_mount(AS_ROOT):
            pytest.skip("a full disk needs a mount, and this system lets only its own root mount")
        again = [
            *AS_ROOT,
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            request.node.nodeid,
        ]
        done = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stdout
        return
    folder = Path("/tmp/full")  # short: Ray's socket paths hold 107 bytes
    folder.mkdir(exist_ok=True)
    with small_disk(folder) as disk:
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        with running("--speculation-bypass", "false", output=tmp_path / "output.txt") as server:
            is_over = threading.Event()

            def streams() -> int:
                """Streams that ended with ``[DONE]`` and no error; fails for any other end."""
                num = 0
                asked = body(max_tokens=200, ignore_eos=True, stream=True)
                with server.client() as client:
                    while not is_over.is_set():
                        with client.stream("POST", "/v1/chat/completions", json=asked) as response:
                            assert not [event for event in events(response) if "error" in event]
                        num += 1
                return num

            with ThreadPoolExecutor(NUM_STREAMS) as pool:
                running_streams = [pool.submit(streams) for _ in range(NUM_STREAMS)]
                try:
                    disk.fill()
                    wait_for(lambda: "the disk with the logs is full" in reasons(server), 30.0)
                    (draft_pid,) = server.replicas("draft")
                    os.kill(draft_pid, signal.SIGKILL)
                    wait_for(lambda: "draft" in reasons(server), 30.0)
                    is_over.wait(FULL_FOR_S)
                    assert server.process.poll() is None
                finally:
                    disk.free()
                    wait_for(lambda: not reasons(server), 60.0)
                    is_over.set()
                assert all(stream.result() > 0 for stream in running_streams)
            assert "the disk with the logs is full" in server.output
            assert "the disk with the logs has space again" in server.output
    folder.rmdir()
