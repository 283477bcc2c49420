"""What the service itself costs beside the models: CPU per request and per round, process by process.

    python -m load_tests.throughput.service_costs [--clients 1 8 24] [--seconds 6] [--json FILE]

It measures three things on this machine. With --alone: the passes of both demo models in this process, by sessions and
tokens. With --traces FILE: what the draft would have proposed along the target's text, for the prompts of ``adasd
bench``. Otherwise: a demo server under clients that ask one after another, in the modes off and exact; the CPU time of
its processes, divided by requests and calls, is what ``adasd simulate`` needs to predict other loads.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from adasd.config import MODEL
from adasd.requests import Mode
from load_tests import record
from load_tests.demo_pair import DEMO, enlarged, positive
from load_tests.faults.local_cluster import values
from load_tests.load import request_mix
from load_tests.load.doors import HttpClient
from load_tests.load.generator import Generator, percentile
from load_tests.load.server_under_test import Server, demo_server
from load_tests.record import machine_cpu

SESSIONS = (1, 2, 4, 8, 16, 32)
BLOCKS = (0, 3, 7, 15)
PROMPTS = (64, 128)
REPEATS = 12


# --------------------------------------------------------------------------- the models alone


def target_points(engine: Any) -> list[tuple[int, int, float]]:
    """(sessions, tokens of the pass, median milliseconds) of verify passes, and of prompts of one session."""
    from adasd.rounds import VerifyCall

    found = []
    for num_sessions in SESSIONS:
        names = _open(engine, num_sessions)
        epoch = 1
        for block_len in BLOCKS:
            times = []
            for _ in range(REPEATS):
                epoch += 1
                for name in names:
                    engine.submit(VerifyCall(name, epoch, 40, (5,), block=(7,) * block_len))
                times.append(_timed_step(engine))
            found.append((num_sessions, num_sessions * (1 + block_len), statistics.median(times)))
        _close(engine, names)
    for prompt_len in PROMPTS:
        times = []
        for number in range(REPEATS):
            names = _open(engine, 1, cached=0)
            engine.submit(
                VerifyCall(names[0], 1, 0, tuple(9 + (i * (number + 3)) % 90 for i in range(prompt_len)))
            )
            times.append(_timed_step(engine))
            _close(engine, names)
        found.append((1, prompt_len, statistics.median(times)))
    return found


def draft_points(engine: Any) -> list[tuple[int, int, float]]:
    """(sessions, sessions, median milliseconds per drafted token) of blocks of eight tokens."""
    from adasd.rounds import DraftCall, StopRule

    found = []
    for num_sessions in SESSIONS:
        names = _open(engine, num_sessions)
        times = []
        for epoch in range(2, REPEATS + 2):
            for name in names:
                engine.submit(DraftCall(name, epoch, 40, (5,), StopRule(8)))
            began_s, num_answers = time.perf_counter(), 0
            while num_answers < num_sessions:
                num_answers += len(engine.step())
            times.append(1e3 * (time.perf_counter() - began_s) / 8)
        found.append((num_sessions, num_sessions, statistics.median(times)))
        _close(engine, names)
    return found


def _timed_step(engine: Any) -> float:
    began_s = time.perf_counter()
    engine.step()
    took_ms = 1e3 * (time.perf_counter() - began_s)
    while engine.num_pending:
        engine.step()
    return took_ms


def _open(engine: Any, num_sessions: int, cached: int = 40) -> list[str]:
    """Sessions with that many tokens cached."""
    from adasd.rounds import OpenCall, SamplingTransform, VerifyCall

    names = [f"s{number}" for number in range(num_sessions)]
    for number, name in enumerate(names):
        engine.open(OpenCall(name, SamplingTransform(temperature=0.0), 200))
        if cached:
            engine.submit(VerifyCall(name, 1, 0, tuple(9 + (i * (number + 1)) % 90 for i in range(cached))))
    while engine.num_pending:
        engine.step()
    return names


def _close(engine: Any, names: Iterable[str]) -> None:
    for name in names:
        engine.close(name)


def alone(target: Path = DEMO / "target") -> dict[str, Any]:
    """Passes of a target and the demo draft in this process."""
    from adasd.config import EngineConfig
    from adasd.engine.engine import TorchEngine

    models = {"target": target, "draft": DEMO / "draft"}
    config = {
        role: EngineConfig(str(model), num_slots=32, prefix_cache=False) for role, model in models.items()
    }
    engines = {role: TorchEngine.from_config(each) for role, each in config.items()}
    for engine in engines.values():
        engine.warm_up()
    return {"target": target_points(engines["target"]), "draft": draft_points(engines["draft"])}


def traces(file: Path, num_prompts: int = request_mix.NUM_DISTINCT) -> list[int]:
    """Write traces of the prompts of ``adasd bench``; returns the lengths of the prompts in tokens."""
    from adasd.config import EngineConfig
    from adasd.engine.loading.model import load_model
    from adasd.evaluate.collect import ModelSource, collect
    from adasd.evaluate.traces import TraceFile
    from adasd.text.tokenizer import Tokenizer
    from load_tests.demo_prompts import examples

    tokenizer = Tokenizer.load(str(DEMO / "target"))
    prompts = [
        (example.task.value, tokenizer.apply_chat_template([{"role": "user", "content": example.prompt}]))
        for example in examples(num_prompts)
    ]
    target, draft = (load_model(EngineConfig(str(DEMO / role))) for role in ("target", "draft"))
    kept = TraceFile(file, {"about": "the prompts of adasd bench, demo pair"})
    for batch in collect(
        target,
        {MODEL: ModelSource(draft)},
        prompts,
        [0.0],
        eos_ids=tokenizer.eos_ids,
        max_tokens=request_mix.WHOLE_ANSWER,
        skip=kept.num_batches,
    ):
        kept.append(batch)
    return [len(prompt) for _, prompt in prompts]


# --------------------------------------------------------------------------- the service


@dataclass(frozen=True, slots=True)
class Counted:
    """Totals since the start of the server, and the CPU seconds of its processes by what they are."""

    at_s: float
    cpu_s: dict[str, float]
    target_calls: float
    draft_calls: float
    target_steps: float
    draft_steps: float
    target_busy_s: float
    draft_busy_s: float
    generated: float


def kind_of(title: str) -> str:
    """What a process of the server is, by its title."""
    for kind, mark in (
        ("orchestrator", ":orchestrator"),
        ("target", ":target"),
        ("draft", ":draft"),
        ("proxy", "ProxyActor"),
    ):
        if mark in title:
            return kind
    return "other"


def cpu_by_kind(pids: Iterable[int]) -> dict[str, float]:
    """CPU seconds of processes so far."""
    ticks, found = os.sysconf("SC_CLK_TCK"), defaultdict[str, float](float)
    for pid in pids:
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        found[kind_of(title)] += (int(fields[11]) + int(fields[12])) / ticks
    return dict(found)


async def count(server: Server, client: httpx.AsyncClient) -> Counted:
    text = (await client.get(f"{server.url}/metrics")).text
    assert server.processes is not None

    def total(name: str, role: str) -> float:
        return sum(values(text, name, role))

    own = {"generator": time.process_time(), **machine_cpu()}
    return Counted(
        time.monotonic(),
        cpu_by_kind(server.processes()) | own,
        total("adasd_worker_calls_total", "target"),
        total("adasd_worker_calls_total", "draft"),
        total("adasd_worker_step_seconds_count", "target"),
        total("adasd_worker_step_seconds_count", "draft"),
        total("adasd_worker_step_seconds_sum", "target"),
        total("adasd_worker_step_seconds_sum", "draft"),
        sum(values(text, "vllm:generation_tokens_total")),
    )


async def levels(server: Server, clients: list[int], seconds: float) -> Iterator[dict[str, Any]]:
    """Every level of load in both modes, after a warm-up, and the idle server."""
    begun_s = time.monotonic()

    def now() -> float:
        return time.monotonic() - begun_s

    found: list[dict[str, Any]] = []
    door = HttpClient(server.url, None, now)
    async with httpx.AsyncClient(timeout=30.0) as http:
        generator = Generator({"http": door}, now)
        await generator.closed_loop("warm-up", 4, request_mix.whole(), seconds=seconds)
        for mode, num_clients in [
            (None, 0),
            *((mode, n) for mode in (Mode.OFF, Mode.EXACT) for n in clients),
        ]:
            await asyncio.sleep(1.5)  # metrics of replicas are up to a second old
            before, first = await count(server, http), len(generator.answers)
            if mode is None:
                await asyncio.sleep(seconds / 2)
            else:
                asks = request_mix.whole(modes=(mode,))
                await generator.closed_loop(
                    f"{mode} {num_clients}", num_clients, _in(asks, mode), seconds=seconds
                )
                await generator.settle(20.0)
            ended_s = time.monotonic()
            await asyncio.sleep(1.5)
            after = await count(server, http)
            answers = generator.answers[first:]
            per_token = [a.per_token_s for a in answers if a.per_token_s is not None]
            found.append(
                {
                    "mode": mode.value if mode else "idle",
                    "clients": num_clients,
                    "seconds": ended_s - before.at_s,
                    "counted_s": after.at_s - before.at_s,
                    "requests": len(answers),
                    "chunks": sum(len(a.chunks_s) for a in answers),
                    "tokens": sum(a.num_tokens for a in answers),
                    "drafted": sum(a.num_drafted for a in answers),
                    "accepted": sum(a.num_accepted for a in answers),
                    "first_token_ms": 1e3 * percentile([a.first_token_s or 0.0 for a in answers], 0.5),
                    "per_token_ms": 1e3 * percentile(per_token, 0.5),
                    **{
                        name: value - getattr(before, name)
                        for name, value in asdict(after).items()
                        if name not in ("at_s", "cpu_s")
                    },
                    "cpu_s": {kind: cpu - before.cpu_s.get(kind, 0.0) for kind, cpu in after.cpu_s.items()},
                }
            )
            print(found[-1], flush=True)
        await generator.close()
    await door.close()
    return iter(found)


def _in(asks: Iterator[Any], mode: Mode) -> Iterator[Any]:
    from dataclasses import replace

    for ask in asks:
        yield replace(ask, mode=mode)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m load_tests.throughput.service_costs")
    parser.add_argument("--clients", type=positive, nargs="+", default=[1, 8, 24])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument(
        "--factor", type=positive, default=1, help="with --alone: how many times as wide a target"
    )
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    header = record.circumstances("throughput.service_costs", arguments)
    found: dict[str, Any] = {}
    if options.traces:
        found["prompt_lens"] = traces(options.traces)
    if options.alone:
        if options.factor == 1:
            found["alone"] = alone()
        else:
            with enlarged(options.factor, 0) as target:
                found["alone"] = alone(target)
        print(found["alone"])
    if options.clients and not options.alone:
        with demo_server({}) as server:
            found["service"] = list(asyncio.run(levels(server, options.clients, options.seconds)))
    if options.json:
        record.write(options.json, header, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
