"""An engine whose passes take as long as a curve says, and whose verdicts follow simulated answers.

Slots, calls, steps and prompt chunks are the engine's own (adasd.engine: SlotTable, Scheduler, the work of a call);
only the forward pass is replaced. ``begin`` says what the next pass computes and for how long, ``end`` applies it, so
that the caller can let virtual time pass in between.
"""

from __future__ import annotations

from dataclasses import dataclass

from adasd.config import EngineConfig
from adasd.engine.cache.prefix_cache import PrefixCache
from adasd.engine.cache.slots import SlotTable
from adasd.engine.scheduler import PrefillBudget, Scheduled, Scheduler
from adasd.engine.work import DraftWork, Judged, Proposed, VerifyWork, Work
from adasd.ports import Clock
from adasd.rounds import DraftBlock, DraftCall, SamplingTransform, Verdict, VerifyCall
from cluster.simulation.curves import PassCurve
from cluster.simulation.texts import WRONG, AnswerText

GREEDY = SamplingTransform(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: the calls that took part, and how long it takes alone on its device."""

    scheduled: tuple[Scheduled, ...]
    complete: tuple[Work, ...]  # calls that need no pass
    num_tokens: int
    took_ms: float
    began_s: float


class CurveEngine:
    """Slots and calls as in ``adasd.ports.Engine``; ``curve`` gives the duration of each pass."""

    def __init__(
        self,
        curve: PassCurve,
        num_slots: int,
        max_context: int,
        clock: Clock,
        *,
        prefill_chunk: int,
        prefill: PrefillBudget,
    ) -> None:
        """``prefill_chunk``: prompt tokens of one session per pass; ``prefill``: of all sessions."""
        self.curve, self._clock = curve, clock
        self._slots = SlotTable(PrefixCache(num_slots, max_context))
        self._texts: dict[str, AnswerText] = {}
        config = EngineConfig("simulated", num_slots=num_slots, prefill_chunk=prefill_chunk)
        self._scheduler = Scheduler(config, num_slots, prefill, self._place)
        self._pass_number = 0

    @property
    def num_slots(self) -> int:
        return self._slots.layout.num_slots

    @property
    def num_sessions(self) -> int:
        return len(self._texts)

    @property
    def num_pending(self) -> int:
        return len(self._scheduler.waiting)

    def open(self, session: str, text: AnswerText, max_len: int) -> None:
        """Take a slot; raises Overloaded if none is free."""
        self._slots.open(session, max_len)
        self._texts[session] = text

    def submit(self, call: DraftCall | VerifyCall) -> None:
        """Raises UnknownSession and StaleCache, as a real engine does."""
        slot = self._slots.keep(call.session, call.keep_len)
        now_s = self._clock()
        if isinstance(call, DraftCall):
            self._scheduler.waiting[call.session] = DraftWork(slot, GREEDY, now_s, call=call)
        else:
            self._scheduler.waiting[call.session] = VerifyWork(slot, GREEDY, now_s, call=call)

    def close(self, session: str) -> None:
        self._scheduler.waiting.pop(session, None)
        self._texts.pop(session, None)
        self._slots.close(session)

    def _place(self, work: Work) -> None:
        work.found(self._slots.place(work.slot, work.call.feed).num_cached)

    # ----------------------------------------------------------------- one pass

    def begin(self) -> Pass:
        """Compute the next pass. Draft calls that need only their next token take several in one pass."""
        scheduled, complete = self._scheduler.next_step()
        drafting = [
            one for one in scheduled if isinstance(one.work, DraftWork) and len(one.input.tokens) == 1
        ]
        others = [
            one for one in scheduled if not (isinstance(one.work, DraftWork) and len(one.input.tokens) == 1)
        ]
        num_tokens, began_s, took_ms = sum(len(one.input.tokens) for one in scheduled), self._clock(), 0.0
        if others:
            took_ms += self.curve.ms(len(others), sum(len(one.input.tokens) for one in others))
            for one in others:
                self._apply(one)
        if drafting:
            limit = self._scheduler.draft_limit(drafting, alone=not others, num_open=self.num_sessions)
            took_ms += self._draft_on(drafting, limit)
        return Pass(tuple(scheduled), tuple(complete), num_tokens, took_ms, began_s)

    def _draft_on(self, drafting: list[Scheduled], limit: int) -> float:
        """Draft up to ``limit`` tokens per call; the milliseconds of the turns, each of all calls (adasd.engine)."""
        alive, turns = drafting, 0
        while alive and turns < limit:
            turns += 1
            for one in alive:
                self._apply(one)
            again = [(one.work, self._scheduler.next_input(one.work)) for one in alive]
            alive = [Scheduled(work, following) for work, following in again if following is not None]
        took_ms = turns * self.curve.ms(len(drafting), len(drafting))
        self._scheduler.drafted(len(drafting), turns, took_ms)
        return took_ms

    def end(self, done: Pass) -> list[DraftBlock | Verdict]:
        """Replies of the calls that the pass completed, with their times. No call may come in between."""
        self._pass_number += 1
        now_s = self._clock()
        replies = [work.answer() for work in done.complete]
        for one in done.scheduled:
            work = one.work
            work.took_part(self._pass_number, done.began_s, now_s, len(done.scheduled), done.num_tokens)
            if self._scheduler.next_input(work) is None:
                del self._scheduler.waiting[work.call.session]
                replies.append(work.answer())
        if done.scheduled:
            self._scheduler.ran(done.num_tokens, 1e3 * (now_s - done.began_s))
        return replies

    def _apply(self, one: Scheduled) -> None:
        work, text = one.work, self._texts[one.work.call.session]
        work.fed(one.input)
        if not one.input.num_logits:
            return
        if isinstance(work, VerifyWork):
            work.take(judge(text, work.base_len - text.prompt_len, work.call.block))
        else:
            work.take(propose(text, work.slot.tokens))
            if work.call.optimistic and self._scheduler.crowded:
                work.cut()


def propose(text: AnswerText, tokens: list[int]) -> Proposed:
    """The draft's next token after these. Everything behind a wrong token is wrong, too."""
    num_wrong = next((i for i, token in enumerate(reversed(tokens)) if token < WRONG), len(tokens))
    token, (entropy, max_prob), other = text.proposal(len(tokens) - text.prompt_len, num_wrong)
    return Proposed(token, entropy, max_prob, other=other)


def judge(text: AnswerText, at: int, block: tuple[int, ...]) -> Judged:
    """The greedy verdict on a block from that position of the answer on."""
    kept = next((i for i, token in enumerate(block) if token != text.target_token(at + i)), len(block))
    num_judged = min(kept + 1, len(block))
    return Judged(
        kept,
        text.target_token(at + kept),
        relaxed=(False,) * kept,
        exact_ok=tuple(i < kept for i in range(num_judged)),
    )
