"""Replays exact drafting methods over traces, with the production controller and stop rules and modelled times.

A method's stop rule cuts blocks from the trace, ``Costs`` gives the time of its rounds, and its controller learns
from them as in service. Nothing is sampled again, so only the methods' decisions make a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from adasd.config import SpeculationConfig
from adasd.control.controller import Controller, SessionController
from adasd.errors import InvalidRequest
from adasd.evaluate.compared_methods import Method
from adasd.evaluate.traces import AnyTrace, Signal
from adasd.requests import Mode
from adasd.rounds import DraftBlock, RoundCompleted, SamplingTransform, StopRule, Verdict
from adasd.stop_rule import stops


@dataclass(frozen=True, slots=True)
class Costs:
    """Modelled milliseconds. A plain round takes ``verify_ms``."""

    draft_ms: float  # per drafted token
    verify_ms: float = 1.0  # a pass over one token
    verify_ms_per_token: float = 0.0  # added by each token of a block
    hop_ms: float = 0.0  # added to a round with a block, besides both models
    step: int = (
        0  # tokens of a pass after each of which it takes ``step_ms`` more, as a device with tiles; 0: none
    )
    step_ms: float = 0.0

    def pass_ms(self, num_drafted: int) -> float:
        """The target's pass over a block and the token before it."""
        steps = num_drafted // self.step if self.step else 0
        return self.verify_ms + num_drafted * self.verify_ms_per_token + steps * self.step_ms

    def round_ms(self, num_drafted: int) -> float:
        """A round with a block of that length; 0: plain."""
        return self.pass_ms(num_drafted) + (self.hop_ms + num_drafted * self.draft_ms if num_drafted else 0.0)


@dataclass(frozen=True, slots=True)
class Replayed:
    """One answer under one method."""

    group: str
    num_tokens: int
    num_rounds: int
    num_drafted: int
    ms: float

    @property
    def pace(self) -> tuple[float, float]:
        """Tokens and milliseconds, as ``adasd.evaluate.intervals.speed_ratio`` takes them."""
        return float(self.num_tokens), self.ms


def replay(traces: Sequence[AnyTrace], method: Method, costs: Costs) -> list[Replayed]:
    """Replay all traces in order with one new controller; raises InvalidRequest for a lossy method."""
    if method.options.mode is Mode.ADAPTIVE or method.options.draft is not None:
        raise InvalidRequest(
            f"{method.name!r} changes the text or its drafts; only exact methods can be replayed"
        )
    controller = Controller(SpeculationConfig())
    answers = []
    for trace in traces:
        transform = SamplingTransform(temperature=trace.temperature)
        session = controller.session(controller.effective(method.options, transform), transform)
        answers.append(_answer(trace, session, costs))
    return answers


def replay_static(traces: Sequence[AnyTrace], length: int, costs: Costs) -> list[tuple[float, float]]:
    """Tokens and milliseconds of each answer with blocks of one length (0: none); ``replay`` is its slow twin."""
    found = []
    for trace in traces:
        position, ms = 1, 0.0
        while position < trace.num_tokens:
            cap = min(length, trace.max_tokens - position - 1)
            block = [stands for _, stands in islice(trace.proposals(position), cap)] if cap > 0 else []
            position += sum(block) + 1
            ms += costs.round_ms(len(block))
        found.append((float(trace.num_tokens - 1), ms))
    return found


def _answer(trace: AnyTrace, session: SessionController, costs: Costs) -> Replayed:
    """Replay one answer from its second token on; the first comes with the prefill."""
    position, num_rounds, num_drafted, ms = 1, 0, 0, 0.0
    while position < trace.num_tokens:
        plan = session.plan(trace.max_tokens - position, position, 0)
        signals, num_accepted = _draft(trace, position, plan.draft)
        took_ms = costs.round_ms(len(signals))
        session.learn(_completed(signals, num_accepted, position, costs, plan.draft))
        position += num_accepted + 1
        num_rounds, num_drafted, ms = num_rounds + 1, num_drafted + len(signals), ms + took_ms
    return Replayed(trace.group, trace.num_tokens - 1, num_rounds, num_drafted, ms)


def _draft(trace: AnyTrace, position: int, rule: StopRule) -> tuple[list[Signal], int]:
    """The signals of the block that the rule drafts at this position, and how many of its tokens are accepted."""
    signals: list[Signal] = []
    num_accepted = 0
    for signal, stands in islice(trace.proposals(position), rule.max_tokens):
        signals.append(signal)
        num_accepted += stands
        if stops(rule, [entropy for entropy, _ in signals], signal[1]):
            break
    return signals, num_accepted


def _completed(
    signals: Sequence[Signal], num_accepted: int, position: int, costs: Costs, rule: StopRule
) -> RoundCompleted:
    num = len(signals)
    draft_ms, verify_ms = num * costs.draft_ms, costs.pass_ms(num)
    block = None
    if num:
        entropies, confidences = zip(*signals, strict=True)
        block = DraftBlock("replay", 0, position, (0,) * num, entropies, None, draft_ms, 0.0, confidences)
    num_judged = min(num_accepted + 1, num)
    exact_ok = tuple(i < num_accepted for i in range(num_judged))
    verdict = Verdict(
        "replay",
        0,
        position,
        num_accepted,
        0,
        (False,) * num_accepted,
        exact_ok,
        compute_ms=verify_ms,
        batch_size=1,
        batch_tokens=1 + num,
    )
    hop_ms = costs.hop_ms if num else 0.0
    return RoundCompleted(block, verdict, draft_ms + hop_ms, verify_ms, rule=rule)
