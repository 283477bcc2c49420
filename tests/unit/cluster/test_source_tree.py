"""Load tests are found where there is a source tree, and missed in one sentence where there is none."""

from __future__ import annotations

import sys

import pytest

from adasd.errors import ConfigError
from cluster.source_tree import ROOT, need_load_tests


def test_a_source_tree_is_importable(monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(ROOT)])
    need_load_tests()
    assert sys.path[-1] == str(ROOT)


def test_elsewhere_it_says_what_is_missing(tmp_path):
    with pytest.raises(ConfigError, match="run this from a source tree"):
        need_load_tests(tmp_path)
