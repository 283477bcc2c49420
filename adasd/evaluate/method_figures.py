"""From answers to the figures of one method: accuracy, tokens per pass, speed-ups, acceptance by position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adasd.evaluate.intervals import paired_difference, share
from adasd.evaluate.measure import AnswerRecord

COST_RATIOS = (0.05, 0.1, 0.3)
"""Time of one draft pass divided by that of one target pass."""


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """One method at one temperature on one group of the workload (or all), against plain decoding."""

    method: str
    temperature: float
    group: str
    num_answers: int
    num_judged: int
    accuracy: float | None  # share of judged answers that are correct; None: none was judged
    accuracy_low: float  # Clopper-Pearson, 95 %
    accuracy_high: float
    accuracy_change: float  # against plain decoding at the same temperature
    change_low: float  # paired and exact, 95 %
    change_high: float
    same_answers: float  # share of answers equal to those of plain decoding, token by token
    num_tokens: int
    num_rounds: int
    num_drafted: int  # also the passes of the draft model
    num_accepted: int
    num_relaxed: int
    decode_s: float
    cpu_s: float | None  # None: unknown
    speed_ups: tuple[float, ...]  # modelled, per cost ratio of COST_RATIOS
    measured_speed_up: float  # tokens per second, relative to plain decoding
    cpu_speed_up: float | None  # tokens per second of CPU time, relative to plain decoding
    acceptance: tuple[float, ...]  # per position of a block: accepted among judged
    reached: tuple[int, ...]  # per position: how often it was judged
    distortion: float | None = 0.0  # expected total variation from relaxation, summed; None: unknown
    nll_per_token: float | None = None  # under the target at temperature 1, nats; None: not asked for
    nll_per_relaxed: float | None = (
        None  # above plain decoding's, per relaxed token; None: unknown, or none relaxed
    )

    @property
    def distortion_per_relaxed(self) -> float | None:
        """Expected total variation per relaxed token; None: unknown, or none was relaxed."""
        return None if self.distortion is None or not self.num_relaxed else self.distortion / self.num_relaxed

    @property
    def tokens_per_round(self) -> float:
        return self.num_tokens / max(1, self.num_rounds)

    @property
    def distortion_share(self) -> float | None:
        """Total variation per token; under rejection sampling it has the same expectation as ``relaxed_share``."""
        return None if self.distortion is None else self.distortion / max(1, self.num_tokens)

    @property
    def relaxed_share(self) -> float:
        """Relaxed tokens as a share of all tokens."""
        return self.num_relaxed / max(1, self.num_tokens)


def modelled_speed_up(num_tokens: int, num_rounds: int, num_drafted: int, cost_ratio: float) -> float:
    """Tokens per time of a target pass, if verifying a block costs 1 and drafting a token costs ``cost_ratio``."""
    return num_tokens / max(1e-9, num_rounds + num_drafted * cost_ratio)


def by_position(answers: Sequence[AnswerRecord]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """(accepted / judged, judged) per position in the block; tokens after a rejection were not judged."""
    accepted: list[int] = []
    judged: list[int] = []
    for answer in answers:
        for num_drafted, num_accepted in zip(
            answer.drafted_per_round, answer.accepted_per_round, strict=True
        ):
            num_judged = min(num_drafted, num_accepted + 1)
            missing = num_judged - len(judged)
            accepted += [0] * missing
            judged += [0] * missing
            for i in range(num_judged):
                judged[i] += 1
                accepted[i] += i < num_accepted
    return tuple(a / j for a, j in zip(accepted, judged, strict=True)), tuple(judged)


def figures(
    method: str,
    temperature: float,
    group: str,
    answers: Sequence[AnswerRecord],
    plain: Sequence[AnswerRecord],
) -> MethodFigures:
    """Figures of ``answers``, compared with ``plain``: plain decoding's answers to the same questions."""
    pairs = [
        (a.correct, p.correct)
        for a, p in zip(answers, plain, strict=True)
        if a.correct is not None and p.correct is not None
    ]
    ours, theirs = [a for a, _ in pairs], [p for _, p in pairs]
    right, change = share(sum(ours), len(ours)), paired_difference(ours, theirs)
    tokens, rounds = sum(a.num_decoded for a in answers), sum(a.num_rounds for a in answers)
    drafted = sum(sum(a.drafted_per_round) for a in answers)
    acceptance, reached = by_position(answers)
    relaxed = sum(a.num_relaxed for a in answers)
    nll, plain_nll = _nll_per_token(answers), _nll_per_token(plain)
    num_written = sum(len(a.tokens) for a in answers)
    added = None if nll is None or plain_nll is None else nll - plain_nll
    return MethodFigures(
        method=method,
        temperature=temperature,
        group=group,
        num_answers=len(answers),
        num_judged=len(ours),
        accuracy=right.value if ours else None,
        accuracy_low=right.low,
        accuracy_high=right.high,
        accuracy_change=change.value,
        change_low=change.low,
        change_high=change.high,
        same_answers=sum(a.tokens == p.tokens for a, p in zip(answers, plain, strict=True))
        / max(1, len(answers)),
        num_tokens=tokens,
        num_rounds=rounds,
        num_drafted=drafted,
        num_accepted=sum(sum(a.accepted_per_round) for a in answers),
        num_relaxed=relaxed,
        decode_s=sum(a.decode_s for a in answers),
        cpu_s=_sum(a.cpu_s for a in answers),
        speed_ups=tuple(modelled_speed_up(tokens, rounds, drafted, ratio) for ratio in COST_RATIOS),
        measured_speed_up=_ratio(
            answers, plain, sum(a.decode_s for a in answers), sum(p.decode_s for p in plain)
        ),
        cpu_speed_up=_cpu_ratio(answers, plain),
        acceptance=acceptance,
        reached=reached,
        distortion=_sum(a.distortion for a in answers),
        nll_per_token=nll,
        nll_per_relaxed=None if added is None or not relaxed else added * num_written / relaxed,
    )


def _nll_per_token(answers: Sequence[AnswerRecord]) -> float | None:
    nll = _sum(answer.nll for answer in answers)
    return None if nll is None else nll / max(1, sum(len(answer.tokens) for answer in answers))


def _sum(values: Iterable[float | None]) -> float | None:
    """Sum; None if one of the values is unknown."""
    known = list(values)
    return None if None in known else sum(filter(None, known))


def _cpu_ratio(answers: Sequence[AnswerRecord], plain: Sequence[AnswerRecord]) -> float | None:
    ours, theirs = (_sum(answer.cpu_s for answer in a) for a in (answers, plain))
    return None if ours is None or theirs is None else _ratio(answers, plain, ours, theirs)


def _ratio(
    answers: Sequence[AnswerRecord], plain: Sequence[AnswerRecord], our_s: float, their_s: float
) -> float:
    """Tokens per second, relative to plain decoding."""
    ours, theirs = (
        seconds / max(1, sum(answer.num_decoded for answer in a))
        for seconds, a in ((our_s, answers), (their_s, plain))
    )
    return theirs / max(1e-9, ours)
