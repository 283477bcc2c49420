"""The ranks of a target get a GPU each, on one node with its label. Ray and Serve are real, the GPUs are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import pytest

from tests.e2e.server import ROOT


@pytest.mark.cluster
def test_each_rank_of_a_replica_gets_a_gpu_of_its_placement_group():
    with tempfile.TemporaryDirectory(prefix="gpus-") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.e2e.granted_gpus", folder],
            cwd=ROOT,
            env={**os.environ, "HOME": folder},  # where Ray keeps its access token
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    granted = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert granted["bundles"] == [{"CPU": 0.25, "GPU": 1.0}] * 2
    assert sorted(rank["gpus"] for rank in granted["ranks"]) == [[0], [1]]
    assert sorted(rank["visible"] for rank in granted["ranks"]) == ["0", "1"]
