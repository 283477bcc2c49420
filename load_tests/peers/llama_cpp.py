"""llama.cpp's server as a contender of ``single_stream``: the same weights in float32, token ids in and out.

Build the server from llama.cpp's sources (those in the source distribution of llama-cpp-python are sufficient):
``cmake -B build -DLLAMA_CURL=OFF && cmake --build build --target llama-server``. Its figures include HTTP on
localhost, as its users also have.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO

import httpx

from load_tests.free_ports import free_port
from load_tests.peers import gguf_pair
from load_tests.peers.stream_peers import Drafting, without_end

PLAIN, DRAFTED = "llama.cpp", "llama.cpp drafted"
MAX_DRAFT = 16
START_S, ANSWER_S = 60.0, 120.0


@dataclass(slots=True)
class LlamaServer:
    """A running server with the ``answer`` method of every contender."""

    client: httpx.Client
    eos_ids: frozenset[int]
    drafting: Drafting | None = None

    @property
    def exact(self) -> bool:
        return True

    def answer(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        body = {
            "prompt": list(prompt),
            "n_predict": max_tokens,
            "temperature": 0,
            "samplers": ["top_k"],
            "top_k": 1,
            "cache_prompt": False,
            "return_tokens": True,
        }
        answer = self.client.post("/completion", json=body).raise_for_status().json()
        return without_end(answer["tokens"], self.eos_ids)


@contextmanager
def llama_servers(
    binary: str, target: str, draft: str, threads: int, eos_ids: frozenset[int]
) -> Iterator[dict[str, LlamaServer]]:
    """One server without and one with a draft; their model files exist while they run."""
    with TemporaryDirectory(prefix="gguf-") as folder:
        files = [Path(folder) / "target.gguf", Path(folder) / "draft.gguf"]
        for model, file in zip((target, draft), files, strict=True):
            gguf_pair.write(model, file)
        drafts = ["--spec-type", "draft-simple", "-md", str(files[1]), "--spec-draft-n-max", str(MAX_DRAFT)]
        drafts += ["--spec-draft-p-min", "0.4", "-td", str(threads)]
        with (
            _running(binary, [str(files[0])], threads, eos_ids) as plain,
            _running(binary, [str(files[0]), *drafts], threads, eos_ids) as drafted,
        ):
            yield {PLAIN: plain, DRAFTED: drafted}


@contextmanager
def _running(
    binary: str, model: Sequence[str], threads: int, eos_ids: frozenset[int]
) -> Iterator[LlamaServer]:
    port = free_port()
    common = ["--host", "127.0.0.1", "--port", str(port), "-t", str(threads), "-np", "1", "-c", "2048"]
    command = [binary, "-m", *model, *common, "--cache-type-k", "f32", "--cache-type-v", "f32"]
    with TemporaryFile("w+") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=address, timeout=ANSWER_S, trust_env=False) as client:
                _wait(process, client, log)
                yield LlamaServer(client, eos_ids)
        finally:
            process.terminate()


def _wait(process: subprocess.Popen[bytes], client: httpx.Client, log: IO[str]) -> None:
    """Wait until the model is loaded; RuntimeError with the server's output if it exits or takes too long."""
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        if process.poll() is not None:
            log.seek(0)
            said = log.read()
            raise RuntimeError(f"llama-server ended with status {process.returncode}: {said[-500:]}")
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"llama-server was not ready within {START_S:g} s")
