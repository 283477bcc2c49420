"""The real ``adasd serve`` in a process of its own, with a temporary folder and ports of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from load_tests.free_ports import free_port

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0


class Server:
    """A running server and everything that belongs to it."""

    def __init__(
        self, process: subprocess.Popen[bytes], folder: Path, output_file: Path, port: int, grpc_port: int
    ) -> None:
        self.process, self.folder, self.port, self.grpc_port = process, folder, port, grpc_port
        self.output_file = output_file
        self.url = f"http://127.0.0.1:{port}"
        self.statuses_before: set[int] = set()  # of requests that came before it was ready

    @property
    def output(self) -> str:
        return self.output_file.read_text(errors="replace")

    def processes(self) -> dict[int, str]:
        """Command lines by process id of all that was started here, found by the temporary folder."""
        mark = f"TMPDIR={self.folder}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found[int(entry.name)] = (
                            (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                        )
                except OSError:  # it has just ended
                    continue
        return {pid: command for pid, command in found.items() if command}  # zombies have no command line

    def replicas(self, deployment: str) -> list[int]:
        """Process ids of a deployment's replicas."""
        return [
            pid for pid, command in self.processes().items() if f"ServeReplica:adasd:{deployment}" in command
        ]

    def stop(self, number: int = signal.SIGINT) -> int:
        """Stop the server as Ctrl-C in a terminal does, by a signal to the whole group; returns the exit status."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        return self.process.wait(STOP_TIMEOUT_S)

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60.0, **options)


@contextmanager
def running(
    *arguments: str, python: str = sys.executable, cwd: Path = ROOT, output: Path | None = None
) -> Iterator[Server]:
    """``adasd serve`` with these arguments, ready to serve; killed at the end with all its children.

    ``output``: the file for what it prints, by default one in its folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="e2e-"))  # pytest's own is too long for Ray's socket paths
    port, grpc_port = free_port(), free_port()
    command = [
        python,
        "-m",
        "cluster.cli",
        "serve",
        "--port",
        str(port),
        "--grpc-port",
        str(grpc_port),
    ]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("ADASD_", "RAY_"))
    }
    output_file = output or folder / "output.txt"
    with output_file.open("wb") as written:
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=cwd,
            env={**environment, "TMPDIR": str(folder), "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, folder, output_file, port, grpc_port)

    def has_started() -> bool:
        with suppress(httpx.HTTPError):
            server.statuses_before.add(too_early.get("/v1/models").status_code)
        return "Ctrl-C stops it" in server.output or process.poll() is not None

    try:
        with httpx.Client(base_url=server.url, timeout=2.0) as too_early:
            wait_for(has_started, START_TIMEOUT_S)
        if process.poll() is not None:
            raise AssertionError(f"adasd serve ended with status {process.returncode}:\n{server.output}")
        yield server
    finally:
        with suppress(subprocess.TimeoutExpired):
            server.stop()
        for pid in server.processes():
            os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(condition: Callable[[], bool], timeout_s: float) -> float:
    """Wait for the condition; returns the seconds it took, fails if it never holds."""
    begun_s = time.monotonic()
    while not condition():
        if time.monotonic() - begun_s > timeout_s:
            raise AssertionError(f"still not so after {timeout_s:g} s")
        time.sleep(0.05)
    return time.monotonic() - begun_s


# --------------------------------------------------------------------------- requests and answers


def body(prompt: str = "Tell me a story.", **fields: Any) -> dict[str, Any]:
    """A chat request; greedy and short by default."""
    request = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 24, "temperature": 0}
    return {**request, "return_token_provenance": True, **fields}


def ask(client: httpx.Client, prompt: str = "Tell me a story.", **fields: Any) -> dict[str, Any]:
    """The whole answer; fails on any status but 200."""
    response = client.post("/v1/chat/completions", json=body(prompt, **fields))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def token_ids(answer: dict[str, Any]) -> list[int]:
    return [token["id"] for token in answer["choices"][0]["adasd"]["tokens"]]


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON objects of a stream; fails if it does not end with ``[DONE]``."""
    for line in response.iter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream ended without [DONE]")
