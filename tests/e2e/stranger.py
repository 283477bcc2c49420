"""What another local user tries on a running service; prints as JSON what succeeded (nothing should).

python -m tests.e2e.stranger < {"paths": [...], "pids": [...], "worker_ports": [...], "ray": "127.0.0.1:6379"}
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from adasd.errors import AdasdError
from adasd.rounds import OpenCall, SamplingTransform
from services.transport.link import WorkerAddress
from services.transport.link_pool import LinkPool
from services.transport.rounds_client import RoundsLine

JOIN_TIMEOUT_S = 20.0
JOINING = "import ray; ray.init(address='{}', log_to_driver=False); print('joined', ray.cluster_resources())"


def succeeded(what: str, attempt: Callable[[], Any]) -> list[str]:
    try:
        attempt()
    except OSError:
        return []
    return [what]


def on_path(path: Path) -> list[str]:
    """Read, write and replace a file; list a folder and write into it; connect to a socket."""

    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(path))

    found = succeeded(f"replaced {path}", lambda: path.rename(path.with_name(f"{path.name}.taken")))
    found += succeeded(f"listed {path}", lambda: os.listdir(path))
    found += succeeded(f"wrote into {path}", lambda: (path / "new").touch())
    found += succeeded(f"connected to {path}", connect)
    found += succeeded(f"read {path}", lambda: os.close(os.open(path, os.O_RDONLY)))
    return found + succeeded(f"wrote {path}", lambda: os.close(os.open(path, os.O_WRONLY)))


def on_process(pid: int) -> list[str]:
    found = succeeded(f"read the environment of {pid}", lambda: Path(f"/proc/{pid}/environ").read_bytes())
    found += succeeded(
        f"read the memory of {pid}", lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))
    )
    return found + succeeded(f"signalled {pid}", lambda: os.kill(pid, signal.SIGCONT))


async def on_worker(port: int) -> tuple[list[str], str]:
    """Opens a slot as an orchestrator does, but without a lease."""
    pool = LinkPool()
    line = RoundsLine(pool, WorkerAddress("target", f"127.0.0.1:{port}", "0" * 32), "stranger", 5.0)
    try:
        await line.open(OpenCall("stranger", SamplingTransform(), 8))
        return [f"opened a slot at port {port}"], ""
    except AdasdError as error:
        return [], error.code.value
    finally:
        await line.close()
        await pool.close()


def on_ray(address: str, mode: str) -> list[str]:
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": mode,
        "RAY_AUTH_TOKEN": "0" * 64,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with suppress(subprocess.TimeoutExpired):
        joining = subprocess.run(
            [sys.executable, "-c", JOINING.format(address)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=JOIN_TIMEOUT_S,
        )
        return [f"joined Ray: {joining.stdout}"] if "joined" in joining.stdout else []
    return []


def main() -> None:
    asked = json.load(sys.stdin)
    found: list[str] = []
    for path in map(Path, asked["paths"]):
        found += on_path(path)
    for pid in asked["pids"]:
        found += on_process(pid)
    said = []
    for port in asked["worker_ports"]:
        opened, code = asyncio.run(on_worker(port))
        found += opened
        said.append(code)
    for mode in ("token", "disabled"):
        found += on_ray(asked["ray"], mode)
    print(json.dumps({"user": os.geteuid(), "succeeded": found, "workers_said": said}))


def kinds(paths: list[Path]) -> set[str]:
    """What there is to attack: file, folder, socket."""
    names = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFSOCK: "socket"}
    return {names.get(stat.S_IFMT(path.lstat().st_mode), "other") for path in paths}


if __name__ == "__main__":
    main()
