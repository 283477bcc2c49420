"""Ray's own processes die: the command reports it and ends within seconds, or restarts; other users see nothing."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from load_tests.faults.local_cluster import os_parent
from tests.e2e.server import Server, ask, running, wait_for
from tests.e2e.test_security import listening_ports

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

ENDS_WITHIN_S = 60.0
"""For a busy machine; a free one takes five."""


def helper(server: Server, kind: str) -> int:
    """Process id of one of Ray's helpers of this server; the agent, a child of the raylet, renames itself."""
    mark = "raylet/raylet" if kind == "agent" else kind
    (pid,) = (pid for pid, command in server.processes().items() if mark in command)
    if kind != "agent":
        return pid
    (agent,) = (
        int(entry.name)
        for entry in Path("/proc").glob("[0-9]*")
        if b"ray::DashboardAgent" in (entry / "cmdline").read_bytes() and os_parent(int(entry.name)) == pid
    )
    return agent


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("gcs_server", "Ray went down: gcs_server (status -9) ended by itself"),
        ("agent", "Ray went down: raylet (status 0) ended by itself"),
    ],
)
def test_a_dead_helper_ends_the_command_with_the_reason_and_leaves_nothing(kind: str, reason: str):
    with running() as server:
        os.kill(helper(server, kind), signal.SIGKILL)
        assert server.process.wait(ENDS_WITHIN_S) == 1
        assert server.output.strip().splitlines()[-1] == f"adasd serve: {reason}"
        wait_for(lambda: not server.processes(), ENDS_WITHIN_S)
        assert not list(server.folder.glob("adasd-*"))


def test_with_restart_it_comes_back_and_nobody_else_can_touch_it():
    with running("--restart") as server:
        (folder,) = server.folder.glob("adasd-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700  # all of Ray's files are below
        assert stat.S_IMODE((folder / "auth_token").stat().st_mode) == 0o600
        # Serve's calls between replicas have a port on every address that no option of Ray restricts.
        workers = [pid for pid, command in server.processes().items() if "ServeReplica" in command]
        others = [pid for pid in server.processes() if pid not in workers]
        assert not any(open_to_all(pid) for pid in others)
        assert all(len(open_to_all(pid)) == 1 for pid in workers)

        os.kill(helper(server, "raylet/raylet"), signal.SIGKILL)
        wait_for(lambda: server.output.count("Ctrl-C stops it") == 2, 240.0)
        assert "adasd serve: Ray went down: raylet (status -9) ended by itself" in server.output
        assert "Starting again in 1 s." in server.output
        with server.client() as client:
            assert ask(client)["usage"]["completion_tokens"] > 0
        assert server.stop(signal.SIGTERM) == 0
        wait_for(lambda: not server.processes(), 30.0)
        assert not list(server.folder.glob("adasd-*"))


def open_to_all(pid: int) -> list[int]:
    return listening_ports(pid, {"00000000", "0" * 32})
