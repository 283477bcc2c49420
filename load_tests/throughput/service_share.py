"""Speed of the whole service relative to in-process, with a target of realistic cost: ``service_stream --enlarged``.

The demo target is made 70 times as large (100 M parameters) without changing what it computes (adasd.demo.enlarge).
A server of our own serves it with the demo draft; the same pair is loaded here. Both answer the same prompts in turn,
greedily, with the same forward backends, one thread each. An answer of the service is timed from sending the request
to the end of the stream.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from rich.table import Table

from adasd.config import EngineConfig
from adasd.demo.tasks import Example
from adasd.engine.engine import TorchEngine
from adasd.local import LocalPair
from adasd.requests import Mode
from adasd.text.tokenizer import Tokenizer
from cluster.http_client import first_model
from load_tests.demo_pair import DEMO, enlarged
from load_tests.interleaving import turns
from load_tests.load.server_under_test import demo_server
from load_tests.throughput.streamed import Clock, stream

GOAL = 0.95
FACTOR = 9
MODES = (Mode.OFF, Mode.EXACT)
SERVICE, HERE = "service", "in process"


class ShareAnswer(NamedTuple):
    """One answer."""

    text: str
    num_tokens: int
    seconds: float


Ask = Callable[[str, Mode], ShareAnswer]


@dataclass(frozen=True)
class ServiceShare:
    """One mode; tokens per second of each repeat."""

    mode: str
    service: list[float]
    in_process: list[float]
    ratio: float  # median over repeats of the ratio within a repeat
    num_differing: int  # prompts whose text differs between service and process, in any repeat


def measure(ways: Mapping[str, Ask], chosen: Sequence[Example], num_repeats: int) -> list[ServiceShare]:
    """Both ways and modes in turn, after one uncounted answer of each."""
    for ask in ways.values():
        for mode in MODES:
            ask(chosen[0].prompt, mode)
    names = [f"{way}/{mode.value}" for mode in MODES for way in ways]
    answers = {
        turn: ways[turn.name.split("/")[0]](chosen[turn.prompt].prompt, Mode(turn.name.split("/")[1]))
        for turn in turns(names, len(chosen), num_repeats)
    }
    found = []
    for mode in MODES:
        rates: dict[str, list[float]] = {}
        for way in (SERVICE, HERE):
            of_way = {turn: one for turn, one in answers.items() if turn.name == f"{way}/{mode.value}"}
            rates[way] = [
                sum(one.num_tokens for turn, one in of_way.items() if turn.repeat == repeat)
                / sum(one.seconds for turn, one in of_way.items() if turn.repeat == repeat)
                for repeat in range(num_repeats)
            ]
        differing = {
            turn.prompt
            for turn, one in answers.items()
            if turn.name == f"{SERVICE}/{mode.value}"
            and one.text != answers[turn._replace(name=f"{HERE}/{mode.value}")].text
        }
        quotients = [there / here for there, here in zip(rates[SERVICE], rates[HERE], strict=True)]
        found.append(
            ServiceShare(
                mode.value, rates[SERVICE], rates[HERE], statistics.median(quotients), len(differing)
            )
        )
    return found


@contextmanager
def both_ways(max_tokens: int, clock: Clock = time.perf_counter) -> Iterator[tuple[Mapping[str, Ask], str]]:
    """The two ways to answer, and a description of what is measured; everything is shut down at the end."""
    with enlarged(FACTOR, 0) as target:
        pair, engines = load(target)
        settings = {tier: served(engine.config) for tier, engine in engines.items()}
        with (
            demo_server(settings) as server,
            httpx.Client(base_url=server.url, timeout=120.0) as client,
        ):
            model = first_model(client)
            ways: dict[str, Ask] = {
                SERVICE: partial(ask_service, client, model, max_tokens, clock),
                HERE: partial(ask_here, pair, max_tokens, clock),
            }
            yield ways, ", ".join(f"{tier} {engine.forward.name}" for tier, engine in engines.items())


def load(target: Path) -> tuple[LocalPair, dict[str, TorchEngine]]:
    """The pair in this process. It chooses forward backends by measurement; both sides then use those."""
    tokenizer = Tokenizer.load(str(target))
    config = EngineConfig(str(target), device="cpu", num_slots=2, max_context=512)
    engines = {
        "target": TorchEngine.from_config(config),
        "draft": TorchEngine.from_config(replace(config, model=str(DEMO / "draft"))),
    }
    for engine in engines.values():
        engine.config = replace(engine.config, compile="on" if "native" in engine.forward.name else "off")
        engine.warm_up()
    pair = LocalPair(
        engines["target"], engines["draft"], tokenizer.decode, tokenizer.eos_ids, tokenizer=tokenizer
    )
    return pair, engines


def served(config: EngineConfig) -> dict[str, Any]:
    """The same engine as a tier's settings, with one more slot for the prober."""
    return {
        "model": config.model,
        "device": config.device,
        "compile": config.compile,
        "num_slots": 2 * config.num_slots,
        "max_context": config.max_context,
    }


def ask_service(
    client: httpx.Client, model: str, max_tokens: int, clock: Clock, prompt: str, mode: Mode
) -> ShareAnswer:
    """One answer over HTTP, streamed to the end."""
    one = stream(client, model, prompt, mode, max_tokens, clock)
    return ShareAnswer(one.text, one.num_tokens, one.seconds)


def ask_here(pair: LocalPair, max_tokens: int, clock: Clock, prompt: str, mode: Mode) -> ShareAnswer:
    """One answer in this process, including chat template and detokenisation."""
    began_s = clock()
    answer = pair.chat(prompt, mode=mode.value, max_tokens=max_tokens)
    return ShareAnswer(answer.text, answer.usage.completion_tokens, clock() - began_s)


def table(found: Sequence[ServiceShare]) -> Table:
    """The figures for a terminal."""
    shown = Table("mode", title="one stream, greedy, demo target enlarged, tokens per second")
    for column in (SERVICE, HERE, "service / in process", "differ"):
        shown.add_column(column, justify="right", no_wrap=True)
    for one in found:
        shown.add_row(
            one.mode,
            f"{statistics.median(one.service):.1f}",
            f"{statistics.median(one.in_process):.1f}",
            f"{one.ratio:.1%}",
            str(one.num_differing),
        )
    return shown


def falls_short(found: Sequence[ServiceShare]) -> list[str]:
    """The missed goals, one sentence each."""
    short = [
        f"mode {one.mode}: the service reaches {one.ratio:.1%} of the in-process speed, the goal is {GOAL:.0%}"
        for one in found
        if one.ratio < GOAL
    ]
    changed = [
        f"mode {one.mode}: {one.num_differing} answers are not those in process"
        for one in found
        if one.num_differing
    ]
    return short + changed
