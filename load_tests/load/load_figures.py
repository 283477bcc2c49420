"""Computes figures from answers: for all, for each kind and phase, and per second."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from adasd.requests import Mode
from cluster.simulation.objective import Objective
from load_tests.demo_prompts import is_right
from load_tests.load.answers import Outcome, Reply
from load_tests.load.generator import percentile
from load_tests.load.goodput import meets
from load_tests.load.scrape import Scrape


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds; None if nothing was measured."""

    p50: float | None
    p90: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """One group of answers over ``seconds``."""

    name: str
    seconds: float
    num_requests: int
    outcomes: dict[str, int]
    answers_per_s: float
    tokens_per_s: float
    goodput_per_s: float  # answers that meet the objective
    attainment: float  # share of answers that meet the objective
    first_token_ms: Spread
    per_token_ms: Spread
    gap_ms: Spread  # between chunks, one per verify step
    total_ms: Spread
    acceptance: float | None  # of drafted tokens
    right: float | None  # share of judged answers that solve their task


def figures(name: str, answers: Sequence[Reply], seconds: float, objective: Objective) -> LoadFigures:
    """``seconds`` is the duration over which these answers were requested and completed."""
    done = [answer for answer in answers if answer.outcome is Outcome.DONE]
    seen = [answer for answer in answers if answer.outcome in (Outcome.DONE, Outcome.LEFT)]
    seconds = max(seconds, 1e-9)
    good = sum(meets(objective, answer) for answer in answers)
    drafted = sum(answer.num_drafted for answer in done)
    judged = [is_right(a.ask.example, a.text) for a in done if a.ask.example is not None]
    return LoadFigures(
        name=name,
        seconds=round(seconds, 3),
        num_requests=len(answers),
        outcomes=dict(Counter(answer.outcome.value for answer in answers)),
        answers_per_s=len(done) / seconds,
        tokens_per_s=sum(answer.num_tokens for answer in done) / seconds,
        goodput_per_s=good / seconds,
        attainment=good / max(1, len(answers)),
        first_token_ms=spread(a.first_token_s for a in seen),
        per_token_ms=spread(a.per_token_s for a in done),
        gap_ms=spread(late - early for a in seen for early, late in pairwise(a.chunks_s)),
        total_ms=spread(a.total_s for a in done),
        acceptance=sum(a.num_accepted for a in done) / drafted if drafted else None,
        right=sum(judged) / len(judged) if judged else None,
    )


def spread(seconds: Iterable[float | None]) -> Spread:
    """Percentiles in milliseconds of the values that are not None."""
    known = sorted(value for value in seconds if value is not None)
    if not known:
        return Spread(None, None, None)
    return Spread(*(round(1e3 * percentile(known, share), 3) for share in (0.5, 0.9, 0.99)))


def by_kind(answers: Iterable[Reply]) -> dict[str, list[Reply]]:
    """Answers by kind, in the order of first appearance."""
    found: dict[str, list[Reply]] = {}
    for answer in answers:
        found.setdefault(answer.ask.kind, []).append(answer)
    return found


def worded_differently(answers: Iterable[Reply]) -> list[str]:
    """Prompts whose exact greedy answers were not always the same text; there must be none."""
    texts: defaultdict[tuple[object, ...], set[str]] = defaultdict(set)
    for answer in answers:
        ask = answer.ask
        repeats = ask.raw is None and ask.temperature == 0 and ask.mode is not Mode.ADAPTIVE
        if answer.outcome is Outcome.DONE and repeats:
            texts[ask.messages, ask.max_tokens].add(answer.text)
    return sorted(str(key[0]) for key, given in texts.items() if len(given) > 1)


@dataclass(frozen=True, slots=True)
class LoadTimeline:
    """Per second since the start: the clients' measurements and the server's metrics."""

    seconds: list[float]
    sent: list[float | None]
    done: list[float | None]
    failed: list[float | None]
    in_flight: list[float | None]
    tokens: list[float | None]
    first_token_p50_ms: list[float | None]  # of first tokens that came in that second
    first_token_p95_ms: list[float | None]
    running: list[float | None]
    waiting: list[float | None]
    sessions: list[float | None]
    acceptance: list[float | None]
    resident_mb: list[float | None]
    open_files: list[float | None]


def timeline(answers: Sequence[Reply], samples: Sequence[Scrape], end_s: float) -> LoadTimeline:
    """Every second up to ``end_s``; the server's newest figures, None before the first."""
    num_bins = max(1, int(end_s) + 1)
    sent, done, failed, tokens = ([0.0] * num_bins for _ in range(4))
    change = [0.0] * (num_bins + 1)
    firsts: list[list[float]] = [[] for _ in range(num_bins)]

    def bin_of(at_s: float) -> int:
        return min(max(0, int(at_s)), num_bins - 1)

    for answer in answers:
        sent[bin_of(answer.sent_s)] += 1
        ended = bin_of(answer.ended_s)
        change[bin_of(answer.sent_s)] += 1
        change[ended + 1] -= 1
        done[ended] += answer.outcome is Outcome.DONE
        failed[ended] += answer.outcome in (Outcome.FAILED, Outcome.OVERLOADED)
        tokens[ended] += answer.num_tokens
        if answer.first_token_s is not None:
            firsts[bin_of(answer.chunks_s[0])].append(1e3 * answer.first_token_s)
    in_flight, now = [], 0.0
    for step in change[:num_bins]:
        now += step
        in_flight.append(now)
    newest: list[Scrape | None] = [None] * num_bins
    for sample in samples:
        newest[bin_of(sample.at_s)] = sample
    shares: list[float | None] = [None] * num_bins
    for early, late in pairwise(samples):
        if late.judged > early.judged:
            shares[bin_of(late.at_s)] = (late.accepted - early.accepted) / (late.judged - early.judged)

    def server(name: str) -> list[float | None]:
        return [None if sample is None else float(getattr(sample, name)) for sample in newest]

    return LoadTimeline(
        [float(second) for second in range(num_bins)],
        list(sent),
        list(done),
        list(failed),
        list(in_flight),
        list(tokens),
        [percentile(each, 0.5) if each else None for each in firsts],
        [percentile(each, 0.95) if each else None for each in firsts],
        server("running"),
        server("waiting"),
        server("sessions"),
        shares,
        server("resident_mb"),
        server("open_files"),
    )
