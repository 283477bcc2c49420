"""Many sessions at once in one process: tokens per second, the wait for the first token, the gaps between tokens.

    python -m load_tests.throughput.batch_throughput [--widths 1 2 4 8 16 32 64] [--waves 1] [--repeats 3] [--json FILE]

1. Tokens per second of all sessions together, for every width: ours without and with speculation, transformers'
   padded ``generate`` and its continuous batching (manager kept running). All in turn, prompts from the held-out
   demo tasks, answers end where the model ends them. ``--waves 3``: three prompts per session, a session that
   ends makes room for the next, where the padded batch has to wait for its longest answer.
2. Time to the first token of a 528-token prompt, with and without its first 512 tokens in the prefix cache.
3. Memory that a running session adds to the process, both models together.
4. Gaps between the tokens of 8 running sessions, undisturbed and while long prompts arrive one after another.

Goals (those of the engine): at 32 sessions 1.5x continuous batching and 1.0x the padded batch; exact at least
0.98x of off at every width; first token at least 5x sooner; the p99 gap at most doubled. The exit status is 1
if exact or off changed an answer; a missed goal is printed, as it depends on the machine.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers.utils import logging

from adasd.engine.engine import TorchEngine
from adasd.local import LocalPair
from adasd.ports import Clock
from adasd.requests import Mode, SamplingParams, SpeculationOptions
from load_tests import record
from load_tests.demo_pair import DEMO, positive
from load_tests.demo_prompts import examples
from load_tests.interleaving import turns
from load_tests.peers.batch_peers import (
    CONTINUOUS,
    EXACT,
    OFF,
    PADDED,
    BatchPeer,
    Continuous,
    PaddedBatch,
    load_pair,
    ours,
)
from load_tests.peers.in_process_batch import BatchedAnswer, InProcessBatch
from load_tests.peers.stream_peers import plain_model

PREFIX_LEN, TAIL_LEN = 512, 16
NUM_RUNNING = 8
MEMORY_TOKENS = 128
MAX_TOKENS = 64
Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Throughput:
    """One contender at one width."""

    name: str
    width: int
    tokens_per_s: list[float]  # per repeat
    median_tokens_per_s: float
    num_differing: int  # prompts whose answer differs from mode off's, in any repeat


@dataclass(frozen=True)
class FirstToken:
    """Milliseconds to the first token; medians."""

    mode: str
    cold_ms: float
    cached_ms: float

    @property
    def ratio(self) -> float:
        return self.cold_ms / self.cached_ms


@dataclass(frozen=True)
class Memory:
    """Memory of sessions of both models together, in bytes."""

    num_sessions: int
    num_tokens: int  # of each answer
    bytes_per_session: int  # growth of the process
    bytes_per_full_slot: int  # for a session that fills its context


@dataclass(frozen=True)
class Gaps:
    """Milliseconds between the chunks of running sessions."""

    mode: str
    num_running: int
    long_prompt_len: int
    num_long_prompts: int
    quiet_median_ms: float
    quiet_p99_ms: float
    disturbed_median_ms: float
    disturbed_p99_ms: float

    @property
    def ratio(self) -> float:
        return self.disturbed_p99_ms / self.quiet_p99_ms


# --------------------------------------------------------------------------- 1: tokens per second


def race(
    batchers: Mapping[str, BatchPeer],
    prompts: Prompts,
    width: int,
    num_repeats: int,
    max_tokens: int,
    clock: Clock = time.perf_counter,
) -> list[Throughput]:
    """Every contender answers a few prompts to warm up, then all of them in turn."""
    for batcher in batchers.values():
        batcher.answer_all(prompts[:width], width, min(8, max_tokens))
    rates: dict[str, list[float]] = {name: [] for name in batchers}
    answers: dict[str, list[list[list[int]]]] = {name: [] for name in batchers}
    for turn in turns(list(batchers), 1, num_repeats):
        began_s = clock()
        answered = batchers[turn.name].answer_all(prompts, width, max_tokens)
        elapsed_s = clock() - began_s
        rates[turn.name].append(sum(map(len, answered)) / elapsed_s)
        answers[turn.name].append(answered)
    return [
        Throughput(
            name, width, rates[name], statistics.median(rates[name]), differing(answers[name], answers[OFF])
        )
        for name in batchers
    ]


def differing(answers: Sequence[Sequence[list[int]]], others: Sequence[Sequence[list[int]]]) -> int:
    """Prompts whose answers are not the same in every repeat on both sides."""
    return len(
        {
            place
            for answered, expected in zip(answers, others, strict=True)
            for place, (one, other) in enumerate(zip(answered, expected, strict=True))
            if one != other
        }
    )


# --------------------------------------------------------------------------- memory


def memory_per_session(load_fresh: Callable[[], LocalPair], prompts: Prompts) -> Memory:
    """Memory that running sessions add to the process, with fresh engines without a prefix cache."""
    pair = load_fresh()
    batch = InProcessBatch(pair, SpeculationOptions(Mode.EXACT))
    endless = SamplingParams(MEMORY_TOKENS, temperature=0.0, ignore_eos=True)
    batch.start(prompts[0], endless)
    batch.finish()  # one-time allocations of a first answer
    before = resident_bytes()
    answers = [batch.start(prompt, endless) for prompt in prompts]
    while not any(answer.done for answer in answers):
        batch.turn()
    grown = resident_bytes() - before
    batch.finish()
    assert isinstance(pair.target, TorchEngine)
    assert isinstance(pair.draft, TorchEngine)
    full = pair.target.cache.bytes_per_slot + pair.draft.cache.bytes_per_slot
    return Memory(len(prompts), MEMORY_TOKENS, grown // len(prompts), full)


def resident_bytes() -> int:
    """Resident memory of this process now (Linux)."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


# --------------------------------------------------------------------------- 2: the first token


def first_tokens(pair: LocalPair, modes: Sequence[Mode], num_runs: int, seed: int = 0) -> list[FirstToken]:
    """Prompts of random tokens; the cached ones share their first ``PREFIX_LEN`` tokens with an earlier answer."""
    chance = random.Random(seed)
    vocab_size = pair.target.vocab_size

    def text(length: int) -> tuple[int, ...]:
        return tuple(chance.randrange(vocab_size) for _ in range(length))

    found = []
    for mode in modes:
        batch = InProcessBatch(pair, SpeculationOptions(mode))
        shared = text(PREFIX_LEN)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for run in range(num_runs + 1):
            for cached in (False, True):
                prompt = (shared if cached else text(PREFIX_LEN)) + text(TAIL_LEN)
                answer = batch.start(prompt, SamplingParams(2, temperature=0.0, ignore_eos=True))
                batch.finish()
                if run:  # the first one fills the cache
                    seconds[cached].append(answer.first_token_s)
        found.append(
            FirstToken(mode, *(1e3 * statistics.median(seconds[cached]) for cached in (False, True)))
        )
    return found


# --------------------------------------------------------------------------- 3: gaps


def gaps(
    pair: LocalPair, mode: Mode, prompts: Prompts, num_tokens: int, num_long: int, seed: int = 0
) -> Gaps:
    """Gaps of sessions of ``num_tokens`` each; then the same while ``num_long`` prompts arrive in turn.

    Only gaps that begin while a long prompt is being processed count as disturbed.
    """
    chance = random.Random(seed)
    long_len = pair.target.max_context - 8
    running = SamplingParams(num_tokens, temperature=0.0, ignore_eos=True)

    quiet = InProcessBatch(pair, SpeculationOptions(mode))
    answers = [quiet.start(prompt, running) for prompt in prompts]
    quiet.finish()
    undisturbed = [gap_s for answer in answers for gap_s in answer.gaps_s]

    batch = InProcessBatch(pair, SpeculationOptions(mode))
    answers = [batch.start(prompt, running) for prompt in prompts]
    while not all(answer.chunks_s for answer in answers):
        batch.turn()
    long: list[BatchedAnswer] = []
    while not any(answer.done for answer in answers):
        if (not long or long[-1].done) and len(long) < num_long:
            prompt = [chance.randrange(pair.target.vocab_size) for _ in range(long_len)]
            long.append(batch.start(prompt, SamplingParams(1, temperature=0.0)))
        batch.turn()
    batch.finish()
    spans = [(one.began_s, one.chunks_s[0]) for one in long]
    disturbed = [
        later - sooner
        for answer in answers
        for sooner, later in zip(answer.chunks_s, answer.chunks_s[1:], strict=False)
        if any(began_s <= sooner < ended_s for began_s, ended_s in spans)
    ]
    return Gaps(
        mode,
        len(prompts),
        long_len,
        len(long),
        *(1e3 * quantile(times_s, share) for times_s in (undisturbed, disturbed) for share in (0.5, 0.99)),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of all values lies; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


# --------------------------------------------------------------------------- report


def throughput_table(found: Sequence[Throughput], waves: int) -> Table:
    """Medians by width; in brackets the number of answers that differ from mode off."""
    names = list(dict.fromkeys(one.name for one in found))
    title = f"tokens/s of all sessions, greedy, demo prompts, {waves} per session (answers unlike off)"
    shown = Table("sessions", title=title)
    for name in names:
        shown.add_column(name, justify="right", no_wrap=True)
    for width in dict.fromkeys(one.width for one in found):
        cells = {one.name: one for one in found if one.width == width}
        shown.add_row(
            str(width), *(f"{cells[n].median_tokens_per_s:.0f} ({cells[n].num_differing})" for n in names)
        )
    return shown


def print_waits(console: Console, firsts: Sequence[FirstToken], between: Sequence[Gaps]) -> None:
    for first in firsts:
        console.print(
            f"first token of {PREFIX_LEN + TAIL_LEN} tokens, {first.mode}: {first.cold_ms:.1f} ms, "
            f"{PREFIX_LEN} of them cached: {first.cached_ms:.1f} ms ({first.ratio:.1f}x sooner)"
        )
    for one in between:
        console.print(
            f"gaps of {one.num_running} sessions, {one.mode}: median {one.quiet_median_ms:.2f}, p99 "
            f"{one.quiet_p99_ms:.2f} ms; while {one.num_long_prompts} prompts of {one.long_prompt_len} tokens "
            f"arrive: {one.disturbed_median_ms:.2f}, {one.disturbed_p99_ms:.2f} ms ({one.ratio:.2f}x)"
        )


def goals(found: Sequence[Throughput], firsts: Sequence[FirstToken], between: Sequence[Gaps]) -> list[str]:
    """One sentence for every missed goal."""
    rate = {(one.name, one.width): one.median_tokens_per_s for one in found}
    wanted = [(EXACT, OFF, width, 0.98) for width in sorted({one.width for one in found})]
    wanted += [(OFF, CONTINUOUS, 32, 1.5), (OFF, PADDED, 32, 1.0)]
    missed = []
    for name, other, width, least in wanted:
        if (name, width) in rate and (other, width) in rate:
            ratio = rate[name, width] / rate[other, width]
            if ratio < least:
                missed.append(f"{name} is {ratio:.2f}x of {other} at {width} sessions, goal {least:g}x")
    missed += [f"first token {f.ratio:.1f}x sooner in mode {f.mode}, goal 5x" for f in firsts if f.ratio < 5]
    missed += [f"p99 gap {g.ratio:.2f}x in mode {g.mode}, goal 2x" for g in between if g.ratio > 2]
    return missed


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 1 if mode exact changed an answer."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    header = record.circumstances("throughput.batch_throughput", arguments, options.threads)
    console = record.console()
    console.print(record.headline(header), highlight=False)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(options.threads)
    most = max(options.widths)
    pair = load_pair(
        options.target, options.draft, options.threads, most, prefix_cache=False, device=options.device
    )
    assert pair.tokenizer is not None
    prompts = [
        pair.tokenizer.apply_chat_template([{"role": "user", "content": example.prompt}])
        for example in examples(max(most * options.waves, NUM_RUNNING))
    ]
    found: list[Throughput] = []
    with ExitStack() as stack:
        batchers = ours(pair)
        if not options.ours_only:
            continuous = Continuous(plain_model(options.target, options.device), pair.eos_ids, most)
            batchers[PADDED] = PaddedBatch(plain_model(options.target, options.device), pair.eos_ids)
            batchers[CONTINUOUS] = stack.enter_context(continuous)
        for width in track(
            options.widths, "measuring", console=console, disable=not console.is_terminal, transient=True
        ):
            some = prompts[: width * options.waves]
            found += race(batchers, some, width, options.repeats, options.max_tokens)
    console.print(throughput_table(found, options.waves))
    memory = memory_per_session(
        lambda: load_pair(
            options.target, options.draft, options.threads, most, prefix_cache=False, device=options.device
        ),
        prompts[:most],
    )
    console.print(
        f"memory: {memory.bytes_per_session / 2**20:.2f} MiB per session of {memory.num_tokens} tokens, "
        f"{memory.bytes_per_full_slot / 2**20:.2f} MiB with a full context"
    )
    caching = load_pair(
        options.target,
        options.draft,
        options.threads,
        NUM_RUNNING + 1,
        prefix_cache=True,
        device=options.device,
    )
    modes = (Mode.OFF, Mode.EXACT)
    firsts = first_tokens(caching, modes, 5 * options.repeats)
    between = [
        gaps(caching, mode, prompts[:NUM_RUNNING], options.gap_tokens, options.repeats) for mode in modes
    ]
    print_waits(console, firsts, between)
    missed = goals(found, firsts, between)
    for sentence in missed:
        console.print(f"[yellow]missed: {sentence}[/yellow]")
    if options.json:
        figures = {
            "target": options.target,
            "draft": options.draft,
            "num_waves": options.waves,
            "max_tokens": options.max_tokens,
            "throughput": [asdict(one) for one in found],
            "memory": asdict(memory),
            "first_token": [asdict(one) | {"ratio": one.ratio} for one in firsts],
            "gaps": [asdict(one) | {"ratio": one.ratio} for one in between],
            "missed_goals": missed,
        }
        record.write(options.json, header, figures)
    wrong = sorted({one.width for one in found if one.name == EXACT and one.num_differing})
    if wrong:
        console.print(f"[red]mode exact gives other answers than mode off at {wrong} sessions[/red]")
    return 1 if wrong else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.throughput.batch_throughput", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--target", default=str(DEMO / "target"), help="folder or Hugging Face id")
    parser.add_argument("--draft", default=str(DEMO / "draft"), help="folder or Hugging Face id")
    parser.add_argument("--device", default="cpu", help="cpu or cuda [cpu]")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads [1]")
    parser.add_argument(
        "--widths", type=positive, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], help="sessions at once"
    )
    parser.add_argument("--waves", type=positive, default=1, help="prompts per session [1]")
    parser.add_argument("--repeats", type=positive, default=3, help="times that all is answered [3]")
    parser.add_argument(
        "--max-tokens", type=positive, default=MAX_TOKENS, help=f"tokens per answer [{MAX_TOKENS}]"
    )
    parser.add_argument("--gap-tokens", type=positive, default=400, help="of each session whose gaps count")
    parser.add_argument("--ours-only", action="store_true", help="leave transformers out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
