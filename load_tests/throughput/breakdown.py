"""Where the processor time of one greedy stream goes, per token: model, sampling, verification, bookkeeping.

    python -m load_tests.throughput.breakdown [--prompts 8] [--repeats 5] [--target PATH] [--draft PATH] [--json FILE]

Processor time of the one thread that does everything, which depends less on other load than wall time does; the
best repeat counts. Stopwatches around the parts cost about 1 % themselves.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.table import Table
from transformers.utils import logging

from adasd.engine import runner
from adasd.engine.engine import TorchEngine
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.native.forward import NativeLlama
from adasd.engine.sampling.sampler import judge_blocks, propose_next
from adasd.local import LocalPair
from adasd.ports import Clock
from adasd.requests import Mode, SamplingParams, SpeculationOptions
from load_tests import record
from load_tests.demo_pair import DEMO, positive
from load_tests.demo_prompts import examples
from load_tests.peers.batch_peers import load_pair
from load_tests.throughput.single_stream import MAX_TOKENS

PARTS = ("target", "draft", "batch", "sampling", "verification", "engine", "session")


@dataclass(slots=True)
class Stopwatches:
    """Seconds by part; a part inside another counts only for the inner one."""

    clock: Clock = time.thread_time
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    _inner: list[float] = field(default_factory=lambda: [0.0])

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps the function so that its time counts for the part."""

        def wrapped(*args: Any, **options: Any) -> Any:
            began_s = self.clock()
            self._inner.append(0.0)
            try:
                return function(*args, **options)
            finally:
                whole_s = self.clock() - began_s
                self.seconds[part] += whole_s - self._inner.pop()
                self._inner[-1] += whole_s

        return wrapped


@contextmanager
def watched(watches: Stopwatches, pair: LocalPair) -> Iterator[None]:
    """Stopwatches around the parts of both engines; removed at the end."""
    assert isinstance(pair.target, TorchEngine)
    assert isinstance(pair.draft, TorchEngine)
    with (
        patch.object(type(pair.target.forward), "__call__", _by_engine(watches, pair)),
        patch.object(NativeLlama, "draft", watches.timed("draft", NativeLlama.draft)),
        patch.object(ForwardBatch, "__init__", watches.timed("batch", ForwardBatch.__init__)),
        patch.object(runner, "propose_next", watches.timed("sampling", propose_next)),
        patch.object(runner, "judge_blocks", watches.timed("verification", judge_blocks)),
        patch.object(TorchEngine, "step", watches.timed("engine", TorchEngine.step)),
        patch.object(TorchEngine, "submit", watches.timed("engine", TorchEngine.submit)),
    ):
        yield


def _by_engine(watches: Stopwatches, pair: LocalPair) -> Callable[..., Any]:
    """Counts a forward pass for the side that owns the model. The two may have the same class."""
    assert isinstance(pair.target, TorchEngine)
    honest = type(pair.target.forward).__call__
    sides = {part: watches.timed(part, honest) for part in ("target", "draft")}
    target = pair.target.forward

    def call(forward: Any, *args: Any) -> Any:
        return sides["target" if forward is target else "draft"](forward, *args)

    return call


def measure(
    pair: LocalPair, mode: Mode, prompts: Sequence[Sequence[int]], num_repeats: int, max_tokens: int
) -> dict[str, float]:
    """Microseconds per token by part and in total, of the fastest repeat; one more repeat warms up."""
    found: list[dict[str, float]] = []
    for _ in range(num_repeats + 1):
        watches = Stopwatches()
        with watched(watches, pair):
            answer_all = watches.timed("session", lambda: _answer_all(pair, mode, prompts, max_tokens))
            num_tokens = answer_all()
        found.append({part: 1e6 * s / num_tokens for part, s in watches.seconds.items()})
    return min(found[1:], key=lambda parts: sum(parts.values()))


def _answer_all(pair: LocalPair, mode: Mode, prompts: Sequence[Sequence[int]], max_tokens: int) -> int:
    """Blocks by ``adasd``: the default method may find that a small target is faster without a draft."""
    options = SpeculationOptions(mode, drafting=None if mode is Mode.OFF else "adasd")
    sampling = SamplingParams(max_tokens, 0.0)
    return sum(
        len(pair.generate(prompt, sampling=sampling, speculation=options).tokens) for prompt in prompts
    )


def table(found: dict[str, dict[str, float]]) -> Table:
    """Parts as rows, modes as columns; microseconds and shares."""
    shown = Table("part", title="processor time of one greedy stream, µs per token")
    for mode in found:
        shown.add_column(mode, justify="right")
    totals = {mode: sum(parts.values()) for mode, parts in found.items()}
    for part in PARTS:
        cells = [f"{found[mode][part]:.0f} ({found[mode][part] / totals[mode]:.0%})" for mode in found]
        shown.add_row(part, *cells)
    shown.add_row("all", *(f"{total:.0f}" for total in totals.values()))
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    header = record.circumstances("throughput.breakdown", arguments, threads=1)
    console = record.console()
    console.print(record.headline(header), highlight=False)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    pair = load_pair(options.target, options.draft, 1, 1, prefix_cache=False)
    assert pair.tokenizer is not None
    prompts = [
        pair.tokenizer.apply_chat_template([{"role": "user", "content": example.prompt}])
        for example in examples(options.prompts)
    ]
    found = {
        mode.value: measure(pair, mode, prompts, options.repeats, options.max_tokens)
        for mode in (Mode.OFF, Mode.EXACT)
    }
    console.print(table(found))
    if options.json:
        record.write(options.json, header, {"microseconds_per_token": found})
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m load_tests.throughput.breakdown", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--target", default=str(DEMO / "target"), help="folder or Hugging Face id")
    parser.add_argument("--draft", default=str(DEMO / "draft"), help="folder or Hugging Face id")
    parser.add_argument("--prompts", type=positive, default=8, help="held-out prompts [8]")
    parser.add_argument("--repeats", type=positive, default=5, help="times that all are answered [5]")
    parser.add_argument(
        "--max-tokens", type=positive, default=MAX_TOKENS, help=f"tokens per answer [{MAX_TOKENS}]"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
