"""``adasd bench`` against the real service: HTTP and gRPC, invalid requests, clients that leave, and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from load_tests.load import command
from load_tests.load.result_file import read
from tests.e2e.server import ROOT

pytestmark = pytest.mark.cluster
EASY = ("--objective", "ttft=30000,tpot=30000")


def words(server, scenario, file, *more):
    where = ["--url", server.url, "--grpc", f"127.0.0.1:{server.grpc_port}", "--json", str(file)]
    return [scenario, *where, *EASY, *more]


@pytest.mark.parametrize("scenario", ["smoke", "malformed", "cancellations", "mixed"])
def test_the_service_passes(server, tmp_path, scenario):
    file = tmp_path / "a.json"
    assert command.main(words(server, scenario, file, "--seconds", "4", "--rate", "5")) == 0
    result = read(file)
    assert result["problems"] == []
    assert set(result["answers"]["door"]) == {"http", "grpc"}
    assert result["server"]["after"]["service"]["open_files"] > 0


def test_a_soak_ends_as_flat_as_it_began(server, tmp_path):
    file = tmp_path / "a.json"
    assert command.main(words(server, "soak", file, "--requests", "100", "--clients", "4")) == 0
    assert read(file)["figures"]["outcomes"] == {"done": 100}


def test_damaged_requests_are_answered_and_leave_nothing_behind(server, tmp_path):
    file = tmp_path / "a.json"
    assert command.main(words(server, "fuzz", file, "--requests", "1000")) == 0
    outcomes = read(file)["figures"]["outcomes"]
    assert set(outcomes) == {"done", "refused"}
    assert outcomes["refused"] > 500


def test_ctrl_c_keeps_what_was_measured(server, tmp_path):
    file = tmp_path / "a.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", "bench", *words(server, "steady", file, "--seconds", "60")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    first = next(line for line in process.stdout if "answers/s" in line and " 0 well" not in line)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130, first + said
    assert "interrupted after" in said
    assert read(file)["figures"]["outcomes"]["done"] > 0
