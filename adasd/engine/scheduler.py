"""What one step computes: which calls take part, and how much of each. No tensors.

Every waiting call takes part in every step, except prompts: they share a budget of tokens per step and take turns,
so that running sessions keep their pace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from adasd.config import EngineConfig
from adasd.cost_table import CostTable
from adasd.engine.work import SHORT_FEED, DraftWork, StepInput, VerifyWork, Work
from adasd.specdec.verification_budget import judged_len, learned, refused_by_budget, refused_by_cost

CROWDED_SHARE = 4
"""Optimistic drafting yields while more than 1 / CROWDED_SHARE of the slots have committed work waiting."""

LONGEST_DRAFT, SHARED_DRAFT = 16, 4
"""Most tokens of one multi-step draft: alone in its step, or while other calls wait for it to end."""

STEP_MS = 3.0
"""Time of a multi-step draft while further sessions are open: a call that arrives meanwhile waits for its end.

A multi-step draft saves what the host spends on a step, some tenths of a millisecond. A slow draft gains nothing by it.
"""


class Scheduled(NamedTuple):
    """A call and what it feeds in this step."""

    work: Work
    input: StepInput


class Rooms(Protocol):
    """Room in the cache for the calls of a step."""

    def admit(
        self,
        work: Work,
        chunk: int,
        chosen: Sequence[Scheduled],
        waiting: Mapping[str, Work],
        *,
        must: bool = False,
    ) -> bool:
        """Make room for all that the call may feed, if need be by preempting newer sessions that are not ``chosen``.

        Where some layers see only a window, room for the next ``chunk`` of a prompt is enough. With ``must``, older
        sessions are preempted, too. False: there is no room.
        """
        ...


class RoomForAll:
    """``Rooms`` where each slot has its room."""

    def admit(
        self,
        work: Work,
        chunk: int,
        chosen: Sequence[Scheduled],
        waiting: Mapping[str, Work],
        *,
        must: bool = False,
    ) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class PrefillBudget:
    """Prompt tokens that one step computes, over all sessions.

    It shrinks while other calls run, so that a step takes about twice as long as without prompts.
    """

    num_tokens: int
    smallest: int = SHORT_FEED
    per_sequence: int = 0  # cost of one more sequence in the pass, in prompt tokens

    def beside(self, running: Sequence[Scheduled]) -> int:
        """The budget of a step that also runs these calls."""
        if not running:
            return self.num_tokens
        fed = sum(len(one.input.tokens) for one in running)
        return min(self.num_tokens, max(self.smallest, fed + self.per_sequence * len(running)))


class Scheduler:
    """Waiting calls by session.

    ``place`` gives a call's session a slot of the cache, ``rooms`` room in it. Without room a call waits; a session
    that is preempted feeds everything again.
    """

    def __init__(
        self,
        config: EngineConfig,
        num_slots: int,
        prefill: PrefillBudget,
        place: Callable[[Work], None],
        rooms: Rooms | None = None,
    ) -> None:
        self.waiting: dict[str, Work] = {}
        self._chunk, self._verify_budget = config.prefill_chunk, config.verify_budget
        self._most_committed = max(1, num_slots // CROWDED_SHARE)
        self._prefill, self._place, self._rooms = prefill, place, rooms or RoomForAll()
        self._cost = CostTable()  # of this engine's own passes
        self._turns = CostTable()  # of the turns of its multi-step drafts, by calls
        self.price = 0.0  # worth below which drafted tokens are not judged

    def next_input(self, work: Work) -> StepInput | None:
        """What a call feeds next; None: it is complete."""
        return work.next_input(self._chunk)

    def next_step(self, now_s: float = 0.0) -> tuple[list[Scheduled], list[Work]]:
        """The calls of the next step, sorted by ``attention_order``, and calls that are complete without a pass.

        A block for which the session would not wait any longer (``now_s``) ends with the tokens that it has.
        """
        running: list[Work] = []
        prompts: list[Work] = []
        complete: list[Work] = []
        if self._verify_budget is not None:
            self._cut_blocks(self._verify_budget)
        for session, work in list(self.waiting.items()):
            if isinstance(work, DraftWork) and work.is_overdue(now_s):
                work.cut()
            following = self.next_input(work)
            if following is None:
                del self.waiting[session]
                complete.append(work)
            else:
                (prompts if following.is_prefill else running).append(work)
        chosen: list[Scheduled] = []
        for work in sorted(running, key=_age):
            if work.slot.is_placed or not self._feeds_a_prompt(
                work
            ):  # as one does that was preempted just now
                self._choose(work, self._chunk, chosen)
        self._take_turns(prompts, self._prefill.beside(chosen), chosen)
        if not chosen and (left := [*running, *prompts]):
            self._choose(min(left, key=_age), self._chunk, chosen, must=True)
        chosen.sort(key=lambda one: one.input.attention_order)
        return chosen, complete

    def ran(self, num_tokens: int, ms: float) -> None:
        """Record how long a pass over ``num_tokens`` tokens took."""
        self._cost = self._cost.add(num_tokens, ms)

    def drafted(self, num_calls: int, num_turns: int, ms: float) -> None:
        """Record how long the turns of a multi-step draft took, each of a token for every call."""
        if num_turns:
            self._turns = self._turns.add(num_calls, ms / num_turns)

    def draft_limit(self, drafting: Sequence[Scheduled], *, alone: bool, num_open: int) -> int:
        """Most tokens that a multi-step draft of these calls may take; ``num_open`` sessions have a slot."""
        if self.crowded and any(_is_optimistic(one.work) for one in drafting):
            return 1
        most = LONGEST_DRAFT if alone else SHARED_DRAFT
        turn_ms = self._turns.at(len(drafting))
        if num_open <= len(drafting) or not turn_ms:
            return most
        return max(1, min(most, int(STEP_MS / turn_ms)))

    @property
    def crowded(self) -> bool:
        """Whether so much committed work waits that optimistic drafting stops after its first token."""
        return sum(not _is_optimistic(work) for work in self.waiting.values()) > self._most_committed

    def _cut_blocks(self, budget: int) -> None:
        """Cut the blocks that this step judges, each by its own price, and learn the price of later ones.

        ``budget``: tokens per pass; 0: what is worth its time.
        """
        works = [
            work
            for work in self.waiting.values()
            if isinstance(work, VerifyWork) and work.call.block and work.block_len is None
            and len(work.call.confidences) == len(work.call.block)
            and (following := self.next_input(work)) and following.num_logits
        ]  # fmt: skip
        if not works:
            return
        blocks = [work.call.confidences for work in works]
        refused = refused_by_budget(budget, blocks) if budget else refused_by_cost(blocks, self._cost.at)
        self.price = learned(self.price, refused)
        for work, block in zip(works, blocks, strict=True):
            work.cut_block(judged_len(block, work.slot.prices.current))

    def _feeds_a_prompt(self, work: Work) -> bool:
        following = self.next_input(work)
        return following is None or following.is_prefill

    def _take_turns(self, prompts: list[Work], budget: int, chosen: list[Scheduled]) -> None:
        """Choose chunks of the prompts that waited longest: as many as fit the budget, at least one.

        A prompt looks for a cached prefix only when its turn comes, so of several prompts with a common prefix that
        arrive together, each reuses what the one before it has computed.
        """
        chunk = min(self._chunk, budget)
        num_before = len(chosen)
        for work in sorted(prompts, key=lambda one: one.last_pass):
            if len(chosen) > num_before and budget <= 0:
                break
            if self._choose(work, chunk, chosen):
                num_fed = len(chosen[-1].input.tokens)
                if len(chosen) > num_before + 1 and num_fed > budget:
                    chosen.pop()
                else:
                    budget -= num_fed

    def _choose(self, work: Work, chunk: int, chosen: list[Scheduled], *, must: bool = False) -> bool:
        """Append the next input of an incomplete call; its session gets a slot of the cache if it has none.

        False: the cache has no room for the call, so it waits.
        """
        if not work.slot.is_placed:
            self._place(work)
        if not self._rooms.admit(work, chunk, chosen, self.waiting, must=must):
            return False
        following = work.next_input(chunk)
        assert following is not None, "the last token of a prompt is never found"
        chosen.append(Scheduled(work, following))
        return True


def _age(work: Work) -> int:
    """Sort key: sessions in the order of their opening."""
    return work.slot.number


def _is_optimistic(work: Work) -> bool:
    return isinstance(work, DraftWork) and work.call.optimistic
