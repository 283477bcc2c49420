"""A peer in a process of its own, asked line by line (load_tests.peers.workers.lines)."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, NamedTuple, Self

from load_tests import record

START_S, ANSWER_S, STOP_S = 240.0, 120.0, 10.0


class PeerFailed(Exception):
    """The process ended or was too slow; the text ends with what it last said."""


class PeerAnswer(NamedTuple):
    """One answer, timed in the peer's process."""

    tokens: tuple[int, ...]
    seconds: float


class PeerProcess:
    """Runs from ``with`` on; its process is gone afterwards, whatever happened."""

    def __init__(
        self, python: Path, module: str, arguments: Sequence[str], threads: int, start_s: float = START_S
    ) -> None:
        self._command = [str(python), "-m", module, *arguments]
        self._environment = {**os.environ, "PYTHONPATH": str(record.ROOT), "OMP_NUM_THREADS": str(threads)}
        self._start_s = start_s

    def __enter__(self) -> Self:
        self._log = TemporaryFile("w+", errors="replace")
        self._process = subprocess.Popen(
            self._command,
            cwd=record.ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        try:
            self._read(self._start_s)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def ask(self, prompt: Sequence[int], max_tokens: int, mode: str = "") -> PeerAnswer:
        """One answer; PeerFailed if the process is gone or too slow."""
        assert self._process.stdin is not None
        asked = {"prompt": list(prompt), "max_tokens": max_tokens, "mode": mode}
        with suppress(BrokenPipeError):  # reading says why
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        told = self._read(ANSWER_S)
        return PeerAnswer(tuple(told["tokens"]), told["seconds"])

    def _read(self, timeout_s: float) -> Any:
        """The next line; a process that takes too long is killed, which ends the wait."""
        assert self._process.stdout is not None
        killer = threading.Timer(timeout_s, self._process.kill)
        killer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            killer.cancel()
        if line:
            return json.loads(line)
        self._process.wait()
        self._log.seek(0)
        said = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        raise PeerFailed(
            f"it ended with status {self._process.returncode}: {' '.join(said[-1:]) or 'it said nothing'}"
        )

    def _end(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
