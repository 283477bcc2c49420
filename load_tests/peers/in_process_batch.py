"""Many sessions on one pair in one process and one thread: session machines over the two engines' batches.

The drafting steps of all sessions come first, then one step of the target, so that blocks which are drafted
together are judged together. What the service does over a network, without the network.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from adasd.control.controller import Controller, SessionController
from adasd.errors import AdasdError
from adasd.local import LocalPair
from adasd.ports import Clock, Engine
from adasd.requests import Mode, SamplingParams, SpeculationOptions
from adasd.rounds import CallFailed, DraftBlock, OpenCall, Verdict
from adasd.session.events import (
    Action,
    AskDraft,
    AskPlan,
    AskVerify,
    AttachTarget,
    DraftAnswered,
    DraftAttached,
    Emit,
    Event,
    Finish,
    Learn,
    Planned,
    TargetAnswered,
    TargetAttached,
)
from adasd.session.opening import check_length, open_call
from adasd.session.protocol import begin, step
from adasd.session.state import Phase, Session, Terms

MAX_DRAFT_STEPS = 16
"""Drafting steps before a step of the target, so that a draft's long prompt does not hold the others up."""


@dataclass(slots=True, eq=False)
class Talk:
    """One session: what it answered so far, and when each chunk came."""

    session: Session
    controller: SessionController
    open_call: OpenCall
    draft: Engine | None
    began_s: float
    tokens: list[int] = field(default_factory=list)
    chunks_s: list[float] = field(default_factory=list)
    draft_asked_s: float = 0.0
    verify_asked_s: float = 0.0
    done: bool = False

    @property
    def first_token_s(self) -> float:
        return self.chunks_s[0] - self.began_s

    @property
    def gaps_s(self) -> list[float]:
        return [later - sooner for sooner, later in zip(self.chunks_s, self.chunks_s[1:], strict=False)]


class Crowd:
    """Sessions under fixed options, with a controller of their own that learns from all of them."""

    def __init__(
        self, pair: LocalPair, options: SpeculationOptions, clock: Clock = time.perf_counter
    ) -> None:
        self.pair, self._clock = pair, clock
        self._controller = Controller(pair.controller.config, tuple(pair.drafts))
        self._effective = self._controller.effective(options)
        self._names = (f"crowd-{number}" for number in count())
        self._talks: dict[str, Talk] = {}

    @property
    def num_running(self) -> int:
        return len(self._talks)

    def start(self, prompt: Sequence[int], sampling: SamplingParams) -> Talk:
        """Begin an answer; it goes on with every ``turn``. Raises what opening a slot raises."""
        check_length(len(prompt), sampling.max_tokens, self.pair.target.max_context)
        terms = Terms(next(self._names), tuple(prompt), sampling, self.pair.eos_ids, self.pair.decode)
        opening = open_call(terms.session, sampling, len(prompt), self.pair.eos_ids)
        session, todo = begin(terms)
        talk = Talk(
            session,
            self._controller.session(self._effective, opening.transform),
            opening,
            self.pair.draft if self._effective.mode is not Mode.OFF else None,
            self._clock(),
        )
        self._talks[terms.session] = talk
        events: list[Event] = []
        if talk.draft is not None and session.phase is not Phase.FINISHED:
            talk.draft.open(talk.open_call)
            events.append(DraftAttached())
        self._perform(talk, todo, events)
        return talk

    def turn(self) -> None:
        """Draft for all who wait for a block, then one step of the target."""
        draft, target = self.pair.draft, self.pair.target
        for _ in range(MAX_DRAFT_STEPS):
            if draft is None or not draft.num_pending:
                break
            self._hand_out(draft.step())
        if target.num_pending:
            self._hand_out(target.step())

    def finish(self) -> None:
        """Turns until every answer is whole."""
        while self._talks:
            self.turn()

    def _hand_out(self, answers: Sequence[DraftBlock | Verdict | CallFailed]) -> None:
        for answer in answers:
            talk = self._talks[answer.session]
            now_s = self._clock()
            match answer:
                case DraftBlock():
                    self._perform(talk, (), [DraftAnswered(answer, 1e3 * (now_s - talk.draft_asked_s))])
                case Verdict():
                    self._perform(talk, (), [TargetAnswered(answer, 1e3 * (now_s - talk.verify_asked_s))])
                case CallFailed(error=error):
                    raise error if isinstance(error, AdasdError) else RuntimeError(str(error))

    def _perform(self, talk: Talk, todo: Sequence[Action], events: list[Event]) -> None:
        """Actions, and the events that they lead to at once; ends where an engine has to answer."""
        while True:
            for action in todo:
                event = self._act(talk, action)
                if event is not None:
                    events.append(event)
            if talk.done or not events:
                return
            talk.session, todo = step(talk.session, events.pop(0))

    def _act(self, talk: Talk, action: Action) -> Event | None:
        match action:
            case Emit(chunk):
                talk.tokens += [token.id for token in chunk.tokens]
                talk.chunks_s.append(self._clock())
            case Learn(done):
                if not done.prefill:
                    talk.controller.learn(done)
            case AskPlan(remaining, num_emitted, num_relaxed):
                plan = talk.controller.plan(remaining, num_emitted, num_relaxed)
                return Planned(plan.draft, plan.accept)
            case AttachTarget():
                self.pair.target.open(talk.open_call)
                return TargetAttached()
            case AskDraft(call):
                assert talk.draft is not None
                talk.draft_asked_s = self._clock()
                talk.draft.submit(call)
            case AskVerify(call):
                talk.verify_asked_s = self._clock()
                self.pair.target.submit(call)
            case Finish():
                self._end(talk)
        return None

    def _end(self, talk: Talk) -> None:
        name = talk.open_call.session
        self.pair.target.close(name)
        if talk.draft is not None:
            talk.draft.close(name)
        del self._talks[name]
        talk.done = True
