"""The server under test: a demo server of our own for the duration of the run, or one that is already running."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from load_tests import record
from load_tests.faults.local_cluster import LocalCluster, ended_by_sigterm, wait_for
from load_tests.free_ports import free_port
from load_tests.load.watch import ServerGone

START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 30.0
MARK = "LOAD_TEST_BENCH"
"""Variable in the environment of all processes of a demo server; its value is their temporary folder."""


@dataclass(frozen=True, slots=True)
class Server:
    """The server's addresses. Our own server knows its processes; one for fault injection includes its cluster."""

    url: str
    grpc: str | None
    api_key: str | None = None
    processes: Callable[[], Iterable[int]] | None = None
    cluster: LocalCluster | None = None


@contextmanager
def demo_server(settings: Mapping[str, Any], root: Path = record.ROOT) -> Iterator[Server]:
    """``adasd serve`` with the demo pair and these settings on free ports; all its processes are killed at the end.

    ``root``: the checkout that serves. ServerGone with the end of its output if it does not become ready.
    """
    folder = Path(tempfile.mkdtemp(prefix="bench-"))  # short: Ray's socket paths hold 107 bytes
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ADASD_", "RAY_"))}
    config = {"port": free_port(), "grpc_port": free_port(), **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    output = folder / "serve.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", "serve", "--config", str(folder / "config.yaml")],
            cwd=root,
            env={**inherited, MARK: str(folder), "TMPDIR": str(folder), "PYTHONPATH": str(root)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,  # Ctrl-C reaches only the load test, which stops the server itself
        )
    url = f"http://127.0.0.1:{config['port']}"
    try:
        with ended_by_sigterm():
            wait_until_ready(url, process, output)
            yield Server(url, f"127.0.0.1:{config['grpc_port']}", processes=lambda: marked(folder))
    finally:
        stop(process, folder)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_ready(url: str, process: subprocess.Popen[bytes], output: Path) -> None:
    """ServerGone if the process ends or takes too long."""

    def said() -> str:
        return " ".join(output.read_text(errors="replace")[-2000:].split())

    def is_ready() -> bool:
        if process.poll() is not None:
            raise ServerGone(f"the demo server ended with status {process.returncode}: {said()}")
        with suppress(httpx.HTTPError, ValueError):
            answer = httpx.get(f"{url}/ready", timeout=5.0)
            return answer.status_code == 200 and not answer.json()["degraded"]
        return False

    try:
        wait_for(is_ready, START_TIMEOUT_S, "the demo server", said)
    except RuntimeError as error:
        raise ServerGone(str(error)) from error


def stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Stop as Ctrl-C does, then kill the remaining processes."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    for pid in marked(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def marked(folder: Path) -> list[int]:
    """Process ids of everything that was started for this server."""
    mark = f"{MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def running_server(url: str, grpc: str | None, api_key: str | None) -> Server:
    """A server that is already running; ServerGone if it does not answer or is not ready."""
    url = url.rstrip("/")
    try:
        answer = httpx.get(f"{url}/ready", timeout=10.0)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServerGone(
            f"no server answers at {url} ({str(error) or type(error).__name__}); start one with adasd serve, or "
            "leave out --url for a demo server"
        ) from error
    if answer.status_code == 503:
        raise ServerGone(f"the server at {url} is not ready: {_reasons(answer) or 'it gives no reason'}")
    return Server(url, grpc, api_key)


def _reasons(answer: httpx.Response) -> str:
    """What ``/ready`` says is missing; empty for a page of another server."""
    try:
        return "; ".join(map(str, answer.json()["reasons"]))
    except (ValueError, LookupError, TypeError):
        return ""


def pair_of(server: Server) -> str:
    """The served models, in words; empty if the server does not tell."""
    headers = {"Authorization": f"Bearer {server.api_key}"} if server.api_key else {}
    try:
        model = httpx.get(f"{server.url}/v1/models", headers=headers, timeout=10.0).json()["data"][0]
        return f"{model['id']}: target {model['adasd']['target']}, draft {model['adasd']['draft'] or 'none'}"
    except (httpx.HTTPError, ValueError, LookupError, TypeError):  # another server than ours
        return ""


def footprint(pids: Iterable[int]) -> dict[str, float]:
    """Totals over all of them, from /proc: number of processes, MB resident, open files, threads."""
    found = {"processes": 0.0, "resident_mb": 0.0, "open_files": 0.0, "threads": 0.0}
    for pid in pids:
        folder = Path(f"/proc/{pid}")
        try:
            pages = int((folder / "statm").read_text().split()[1])
            files, threads = len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))
        except (OSError, IndexError, ValueError):  # it has ended
            continue
        found["processes"] += 1
        found["resident_mb"] += pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        found["open_files"] += files
        found["threads"] += threads
    return {name: round(value, 1) for name, value in found.items()}
