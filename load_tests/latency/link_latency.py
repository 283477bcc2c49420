"""What a draft far away is worth: tokens per second with real models and 0, 1, 5, 20 ms injected on the draft's link.

    python -m load_tests.latency.link_latency [--factor 8] [--latencies 0 1 5 20] [--prompts 12] [--json FILE]

The demo target is enlarged without changing what it computes (adasd.demo.enlarge), so that a verdict costs many
times a drafted token, as with models that one would serve. Draft and target are processes of their own with real
engines; the real Runner talks gRPC to them, and every message to and from the draft waits for the latency first, each
way. Greedy, exact. Columns: plain decoding; drafting and verifying in turn; drafting ahead; drafting ahead with the
gate that decodes plainly while drafting does not pay. The exit status is 1 if any answer differs from plain decoding's.
About three minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import uvloop
from rich.table import Table

from adasd.config import EngineConfig, SpeculationConfig
from adasd.control.controller import Controller
from adasd.drafters.lookups import Lookups
from adasd.engine.engine import TorchEngine
from adasd.requests import GenerationRequest, Mode, SamplingParams, SpeculationOptions
from adasd.results import Chunk
from adasd.session.runner import Runner, SharedParts
from adasd.session.slots import RunnerSettings
from adasd.text.tokenizer import Tokenizer
from load_tests import record
from load_tests.demo_pair import DEMO, enlarged
from load_tests.demo_prompts import examples
from load_tests.latency.pipelining import Lines
from load_tests.latency.round_trip import worker
from services.transport.link import WorkerAddress
from services.transport.link_pool import LinkPool

SESSION = "latency"
MAX_CONTEXT = 1024
LATENCIES_MS = (0.0, 1.0, 5.0, 20.0)
EXACT = SpeculationConfig(mode=Mode.EXACT, bypass=False)
WAYS: Mapping[str, SpeculationConfig] = {
    "off": replace(EXACT, mode=Mode.OFF),
    "sequential": replace(EXACT, draft_ahead=False),
    "pipelined": EXACT,
    "gated": replace(EXACT, bypass=True),
}


@dataclass(frozen=True)
class LinkRate:
    """One way of decoding at one latency; tokens after the first one, all prompts together."""

    latency_ms: float
    way: str
    tokens_per_s: float
    acceptance: float  # share of drafted tokens accepted
    ahead_used: float  # share of blocks drafted ahead that were used
    num_differing: int  # prompts whose answer differs from plain decoding's


@dataclass
class LinkAnswer:
    """One answer."""

    tokens: tuple[int, ...]
    decoding_s: float  # from the first chunk to the last
    num_first: int  # tokens of the first chunk
    num_drafted: int
    num_accepted: int
    num_ahead: int
    num_ahead_used: int


class Speaker:
    """Runs answers in one way at one latency; keeps its learned values."""

    def __init__(
        self, way: str, latency_ms: float, tokenizer: Tokenizer, at: tuple[WorkerAddress, WorkerAddress]
    ) -> None:
        config = WAYS[way]
        self.at, self.latency_ms, self.options = at, latency_ms, SpeculationOptions(mode=config.mode)
        self.shared = SharedParts(
            Controller(config),
            Lookups(),
            tokenizer.eos_ids,
            tokenizer.decode,
            MAX_CONTEXT,
            RunnerSettings(request_timeout_s=120.0, draft_timeout_s=5.0, reattach_s=0.01),
        )

    async def answer(self, pool: LinkPool, prompt: Sequence[int], max_tokens: int) -> LinkAnswer:
        """The whole answer to one prompt, over fresh streams."""
        sampling = SamplingParams(max_tokens, temperature=0.0)
        request = GenerationRequest(SESSION, tuple(prompt), sampling, self.options)
        runner = Runner(request, self.shared, Lines(pool, *self.at, self.latency_ms))
        tokens, times_s, num_first = list[int](), list[float](), 0
        async for event in runner.run():
            if isinstance(event, Chunk):
                tokens += [token.id for token in event.tokens]
                times_s.append(time.perf_counter())
                num_first = num_first or len(tokens)
            else:
                report = event.speculation
        return LinkAnswer(
            tuple(tokens),
            times_s[-1] - times_s[0],
            num_first,
            report.num_draft_tokens,
            report.num_accepted_tokens,
            report.num_ahead,
            report.num_ahead_used,
        )


async def rate(
    speaker: Speaker,
    way: str,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    alone: Sequence[tuple[int, ...]] | None,
) -> tuple[LinkRate, list[LinkAnswer]]:
    """One prompt to warm up, then all; ``alone`` holds plain decoding's answers."""
    pool = LinkPool()
    try:
        await speaker.answer(pool, prompts[0], max_tokens)
        answers = [await speaker.answer(pool, prompt, max_tokens) for prompt in prompts]
    finally:
        await pool.close()
    num_tokens = sum(len(one.tokens) - one.num_first for one in answers)
    expected = [one.tokens for one in answers] if alone is None else alone
    found = LinkRate(
        speaker.latency_ms,
        way,
        num_tokens / sum(one.decoding_s for one in answers),
        share(sum(one.num_accepted for one in answers), sum(one.num_drafted for one in answers)),
        share(sum(one.num_ahead_used for one in answers), sum(one.num_ahead for one in answers)),
        sum(one.tokens != other for one, other in zip(answers, expected, strict=True)),
    )
    return found, answers


def share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


# --------------------------------------------------------------------------- the pair


def engine(model: str) -> TorchEngine:
    """The engine in the worker's process."""
    return TorchEngine.from_config(EngineConfig(model, device="cpu", num_slots=2, max_context=MAX_CONTEXT))


def run(
    factor: int, extra_layers: int, latencies_ms: Sequence[float], num_prompts: int, max_tokens: int
) -> list[LinkRate]:
    """All ways at all latencies; plain decoding uses no draft, so it is measured once."""
    tokenizer = Tokenizer.load(str(DEMO / "target"))
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": example.prompt}])
        for example in examples(num_prompts)
    ]
    with (
        enlarged(factor, extra_layers) as target,
        worker("draft", [SESSION], partial(engine, str(DEMO / "draft"))) as draft_at,
        worker("target", [SESSION], partial(engine, str(target))) as target_at,
    ):

        def measure(way: str, latency_ms: float, alone: Sequence[tuple[int, ...]] | None) -> tuple:
            speaker = Speaker(way, latency_ms, tokenizer, (draft_at, target_at))
            return uvloop.run(rate(speaker, way, prompts, max_tokens, alone))

        plain, answers = measure("off", 0.0, None)
        alone = [one.tokens for one in answers]
        rates = [plain]
        for latency_ms in latencies_ms:
            rates += [measure(way, latency_ms, alone)[0] for way in WAYS if way != "off"]
    return rates


def table(rates: Sequence[LinkRate], title: str) -> Table:
    """Rows are latencies, columns ways."""
    shown = Table("latency, one way (ms)", *WAYS, "acceptance", "ahead used", title=title)
    plain = next(one for one in rates if one.way == "off")
    for latency_ms in dict.fromkeys(one.latency_ms for one in rates if one.way != "off"):
        row = {one.way: one for one in rates if one.latency_ms == latency_ms} | {"off": plain}
        cells = [
            f"{row[way].tokens_per_s:.0f} ({row[way].tokens_per_s / plain.tokens_per_s:.2f}x)" for way in WAYS
        ]
        ahead = row["pipelined"]
        shown.add_row(f"{latency_ms:g}", *cells, f"{ahead.acceptance:.0%}", f"{ahead.ahead_used:.0%}")
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the module docstring explains the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.latency.link_latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--factor", type=int, default=8, help="how many times as wide the target is made")
    parser.add_argument("--extra-layers", type=int, default=0, help="layers that cost and do nothing")
    parser.add_argument("--latencies", type=float, nargs="+", default=LATENCIES_MS, help="ms, one way")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    header = record.circumstances("latency.link_latency", arguments, threads=1)
    print(record.headline(header))
    rates = run(options.factor, options.extra_layers, options.latencies, options.prompts, options.max_tokens)
    title = f"Tokens per second, one session, demo target {options.factor} times as wide, greedy, exact"
    record.console().print(table(rates, title))
    wrong = sum(one.num_differing for one in rates)
    print(f"answers that differ from plain decoding: {wrong}")
    if options.json:
        found = {"factor": options.factor, "extra_layers": options.extra_layers, "prompts": options.prompts}
        record.write(options.json, header, {**found, "rates": [asdict(one) for one in rates]})
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
