"""A target on several GPUs gets all of them, on one node with its label. Ray and Serve are real, the GPUs are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import pytest

from tests.e2e.server import ROOT


@pytest.mark.cluster
def test_a_replica_on_two_gpus_gets_both_in_one_placement_group():
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
    assert granted == {"gpus": [0, 1], "visible": "0,1", "bundles": [{"CPU": 0.5, "GPU": 2.0}]}
