"""Sixteen streams over HTTP: SmolLM2 served by us and by vLLM, in float32, one server after the other.

Every burst has prompts of its own, so that nothing is reused. The first burst after the start counts for itself.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile

import httpx

from adasd.pairs.known import cache_folder
from adasd.requests import Mode
from cluster.http_client import ServerRefusal, first_model
from load_tests.faults.local_cluster import wait_for
from load_tests.free_ports import free_port
from load_tests.goals.row import Circumstances, Row, figures, ratio, smollm2
from load_tests.load.generator import percentile
from load_tests.load.server_under_test import demo_server
from load_tests.load.watch import ServerGone
from load_tests.peers.command import PROMPTS
from load_tests.peers.contenders import VLLM
from load_tests.peers.environments import NotInstalled, python_of
from load_tests.throughput.streamed import Streamed, stream

NUM_STREAMS, BURST, MAX_TOKENS = 16, 32, 48
START_S, ANSWER_S, STOP_S = 240.0, 300.0, 20.0
FASTER = "16 streams, SmolLM2, tokens/s over vLLM"
LATER = "16 streams, SmolLM2, p99 of the first token over vLLM's"
Burst = tuple[float, list[Streamed]]
"""Seconds, and the answers."""


def measure(given: Circumstances) -> list[Row]:
    folder, draft = smollm2()
    given.say("starting the service")
    settings = {"target": str(folder), "draft": str(draft), "draft.weights": "int8"}
    with demo_server(settings) as server:
        modes = [Mode.OFF, *[mode for _ in range(given.repeats) for mode in (Mode.OFF, Mode.EXACT)]]
        first, *later = bursts(server.url, modes)
    off, exact = later[0::2], later[1::2]
    rows = [
        Row(
            "first 32 sessions after a start over later ones",
            0.95,
            round(speed(first) / median(map(speed, off)), 3),
            figures("tokens/s", first=speed(first), later=median(map(speed, off))),
        ),
        Row(
            "16 streams, SmolLM2, exact over off",
            1.0,
            round(ratio([speed(one) for one in exact], [speed(one) for one in off]), 3),
            figures("tokens/s", off=median(map(speed, off)), exact=median(map(speed, exact))),
        ),
    ]
    given.say("starting vLLM")
    try:
        with vllm_server(folder, given.threads) as url:
            _, *theirs = bursts(url, [None] * (1 + given.repeats))
    except (NotInstalled, ServerGone, ServerRefusal, httpx.HTTPError, OSError) as error:
        return [*rows, Row(FASTER, 1.4, None, f"vLLM: {error}"), Row(LATER, 1.0, None, at_most=True)]
    return [*rows, *beside_vllm(off, theirs)]


def beside_vllm(ours: Sequence[Burst], theirs: Sequence[Burst]) -> list[Row]:
    """Tokens per second of all streams together, and the latest first tokens."""
    fast, other = (median(map(speed, each)) for each in (ours, theirs))
    late, later = (late_s(each) for each in (ours, theirs))
    return [
        Row(FASTER, 1.4, round(fast / other, 3), figures("tokens/s", ours=fast, vLLM=other)),
        Row(LATER, 1.0, round(late / later, 3), figures("s", ours=late, vLLM=later), at_most=True),
    ]


def late_s(found: Sequence[Burst]) -> float:
    """99th percentile of the times to the first token."""
    return percentile([answer.first_token_s for _, answers in found for answer in answers], 0.99)


def speed(burst: Burst) -> float:
    """Tokens per second."""
    return sum(answer.num_tokens for answer in burst[1]) / burst[0]


def bursts(url: str, modes: Sequence[Mode | None]) -> list[Burst]:
    """A burst in each mode in turn."""
    limits = httpx.Limits(max_connections=NUM_STREAMS, max_keepalive_connections=NUM_STREAMS)
    found = []
    with (
        httpx.Client(base_url=url, timeout=ANSWER_S, limits=limits) as client,
        ThreadPoolExecutor(NUM_STREAMS) as pool,
    ):
        model = first_model(client)
        for number, mode in enumerate(modes):
            began_s = time.perf_counter()
            answers = list(pool.map(asker(client, model, mode), prompts_of(number)))
            found.append((time.perf_counter() - began_s, answers))
    return found


def asker(client: httpx.Client, model: str, mode: Mode | None) -> Callable[[str], Streamed]:
    return lambda prompt: stream(client, model, prompt, mode, MAX_TOKENS, time.perf_counter)


def prompts_of(burst: int) -> list[str]:
    """Prompts that differ from the first word on."""
    return [f"Number {burst * BURST + i}. {PROMPTS[i % len(PROMPTS)]}" for i in range(BURST)]


@contextmanager
def vllm_server(folder: Path, threads: int) -> Iterator[str]:
    """vLLM's own server for CPUs, in an environment of its own; yields its address. NotInstalled, ServerGone."""
    python = python_of(VLLM, cache_folder(os.environ) / "peers")
    port = free_port()
    command = [
        str(python),
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(folder),
        "--port",
        str(port),
    ]
    command += ["--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "2048", "--enforce-eager"]
    command += ["--max-num-seqs", str(NUM_STREAMS)]
    own = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **own}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )

        def said() -> str:
            log.seek(0)
            return " ".join(log.read()[-1000:].split())

        def is_ready() -> bool:
            if process.poll() is not None:
                raise ServerGone(f"it ended with status {process.returncode}: {said()}")
            try:
                return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5.0).status_code == 200
            except httpx.HTTPError:
                return False

        try:
            wait_for(is_ready, START_S, "vLLM's server", said)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
