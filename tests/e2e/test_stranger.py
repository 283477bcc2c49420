"""Another user can read, write and replace nothing of a running service, take no slot and not join Ray."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from typing import Any

import pytest

from tests.e2e import stranger
from tests.e2e.server import ROOT, Server, ask
from tests.e2e.test_security import listening_ports

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NOBODY: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []}
IMPORTS = "import ray, grpc, torch, services.transport.rounds_client"


def as_nobody(python: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A Python with our packages, run by the user ``nobody``."""
    packages = f"{ROOT}:{sysconfig.get_path('purelib')}"
    return subprocess.run(
        [python, *arguments],
        cwd="/",
        env={"PYTHONPATH": packages, "HOME": "/nonexistent", "LANG": "C.UTF-8", "TMPDIR": "/tmp"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        **NOBODY,
        **options,
    )


def python_for_nobody() -> tuple[str | None, str]:
    """This Python, or the system's of the same version if this one is in a private folder; or why there is none."""
    if os.geteuid() != 0:
        return None, "another user can be played by root alone: run this test as root, as CI does"
    name, why = f"python{sys.version_info.major}.{sys.version_info.minor}", ""
    for python in filter(None, (sys.executable, shutil.which(name, path="/usr/local/bin:/usr/bin"))):
        try:
            tried = as_nobody(python, "-c", IMPORTS)
        except PermissionError as error:
            why = str(error)
            continue
        if tried.returncode == 0:
            return python, ""
        why = tried.stderr[-300:]
    return None, f"nobody can run no {name} with our packages: {why}"


def test_another_user_gets_nothing(server: Server):
    python, reason = python_for_nobody()
    if python is None:
        pytest.skip(reason)
    (folder,) = server.folder.glob("adasd-*")
    paths = [folder, *folder.rglob("*")]
    assert stranger.kinds(paths) >= {"file", "folder", "socket"}
    assert folder / "auth_token" in paths
    processes = server.processes()
    raylet = next(command for command in processes.values() if "raylet/raylet" in command)
    ray = re.search(r"--gcs-address=(\S+)", raylet)
    assert ray is not None
    ports = [
        port for role in ("target", "draft") for pid in server.replicas(role) for port in listening_ports(pid)
    ]
    everybodys = server.folder / "everybodys"
    everybodys.write_text("a file that shows that the stranger tries")
    everybodys.chmod(0o666)
    paths.append(everybodys)
    asked = {"paths": [*map(str, paths)], "pids": [*processes], "worker_ports": ports, "ray": ray.group(1)}

    server.folder.chmod(0o755)  # the test's own; a service started in /tmp has no such folder around it
    try:
        tried = as_nobody(python, "-m", "tests.e2e.stranger", input=json.dumps(asked))
    finally:
        server.folder.chmod(0o700)
        everybodys.unlink()
    assert tried.returncode == 0, tried.stderr
    found = json.loads(tried.stdout.splitlines()[-1])
    assert found["user"] not in (0, os.geteuid())
    assert found["succeeded"] == [f"read {everybodys}", f"wrote {everybodys}"]
    assert found["workers_said"].count("stale_incarnation") == 2, "both workers were reached, and refused"
    with server.client() as client:
        assert ask(client, max_tokens=2)["usage"]["completion_tokens"] == 2
