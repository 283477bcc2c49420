"""What one step computes: which calls take part, and how much of each. No tensors.

Every step takes along what every waiting call needs next. Prompts share a budget of tokens per step and take
turns, so that running sessions keep their pace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adasd.config import EngineConfig
from adasd.cost_table import CostTable
from adasd.engine.work import SHORT_FEED, DraftWork, StepInput, VerifyWork, Work
from adasd.specdec.verification_budget import share, share_by_cost

CROWDED_SHARE = 4
"""Optimistic drafting yields while more than one in so many slots has committed work waiting."""

LONGEST_DRAFT, SHARED_DRAFT = 16, 4
"""Tokens of one multi-step draft at most: alone in its step, or while others wait for its end."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A call and what it feeds in this step."""

    work: Work
    input: StepInput


@dataclass(frozen=True, slots=True)
class PrefillBudget:
    """Prompt tokens that one step takes of all sessions together.

    Where it ``yields``, it shrinks while others run: the step is meant to take about twice as long as without it.
    """

    num_tokens: int
    yields: bool = False
    smallest: int = SHORT_FEED
    per_sequence: int = 0  # prompt tokens that take as long as one more sequence in the pass

    def beside(self, running: Sequence[Scheduled]) -> int:
        """Of a step in which these take part, too."""
        if not running or not self.yields:
            return self.num_tokens
        fed = sum(len(one.input.tokens) for one in running)
        return min(self.num_tokens, max(self.smallest, fed + self.per_sequence * len(running)))


class Scheduler:
    """Waiting calls by session. ``place`` gives a call's session a slot of the cache."""

    def __init__(
        self, config: EngineConfig, num_slots: int, prefill: PrefillBudget, place: Callable[[Work], None]
    ) -> None:
        self.waiting: dict[str, Work] = {}
        self._chunk, self._verify_budget = config.prefill_chunk, config.verify_budget
        self._most_committed = max(1, num_slots // CROWDED_SHARE)
        self._prefill, self._place = prefill, place
        self._cost = CostTable()  # of this engine's own passes

    def next_input(self, work: Work) -> StepInput | None:
        """What a call feeds next; None: it is complete."""
        return work.next_input(self._chunk)

    def next_step(self) -> tuple[list[Scheduled], list[Work]]:
        """What takes part in the next step, in the order of attention; and calls that need no pass at all."""
        running: list[Scheduled] = []
        prompts: list[Work] = []
        complete: list[Work] = []
        if self._verify_budget is not None:
            self._cut_blocks(self._verify_budget)
        for session, work in list(self.waiting.items()):
            following = self.next_input(work)
            if following is None:
                del self.waiting[session]
                complete.append(work)
            elif following.is_prefill:
                prompts.append(work)
            else:
                running.append(self._schedule(work, self._chunk))
        running += self._take_turns(prompts, self._prefill.beside(running))
        running.sort(key=lambda one: one.input.attention_order)
        return running, complete

    def ran(self, num_tokens: int, ms: float) -> None:
        """A pass over so many tokens took so long."""
        self._cost = self._cost.add(num_tokens, ms)

    def draft_limit(self, drafting: Sequence[Scheduled], *, alone: bool) -> int:
        """Tokens that a multi-step draft of these calls may take at most."""
        if self.crowded and any(_is_optimistic(one.work) for one in drafting):
            return 1
        return LONGEST_DRAFT if alone else SHARED_DRAFT

    @property
    def crowded(self) -> bool:
        """So much committed work waits that optimistic drafting stops after its first token."""
        return sum(not _is_optimistic(work) for work in self.waiting.values()) > self._most_committed

    def _cut_blocks(self, budget: int) -> None:
        """Leave of the blocks that this step judges what the budget holds (0: what is worth its time)."""
        works = [
            work
            for work in self.waiting.values()
            if isinstance(work, VerifyWork) and work.call.block and work.block_len is None
            and len(work.call.confidences) == len(work.call.block)
            and (following := self.next_input(work)) and following.num_logits
        ]  # fmt: skip
        blocks = [work.call.confidences for work in works]
        lens = share(budget, blocks) if budget else share_by_cost(blocks, self._cost.at)
        for work, length in zip(works, lens, strict=True):
            work.cut_block(length)

    def _take_turns(self, prompts: list[Work], budget: int) -> list[Scheduled]:
        """Those who waited longest for a piece of their prompt, as many as the budget holds, at least one.

        A prompt looks for a cached prefix when its turn comes: of several that begin alike and come together
        each goes on from where the one before it got to.
        """
        chunk = min(self._chunk, budget)
        taken: list[Scheduled] = []
        for work in sorted(prompts, key=lambda one: one.last_pass):
            if taken and budget <= 0:
                break
            scheduled = self._schedule(work, chunk)
            if not taken or len(scheduled.input.tokens) <= budget:
                taken.append(scheduled)
                budget -= len(scheduled.input.tokens)
        return taken

    def _schedule(self, work: Work, chunk: int) -> Scheduled:
        """What an incomplete call feeds, and where; its session gets a slot of the cache if it has none."""
        if not work.slot.is_placed:
            self._place(work)
        following = work.next_input(chunk)
        assert following is not None, "the last token of a prompt is never found"
        return Scheduled(work, following)


def _is_optimistic(work: Work) -> bool:
    return isinstance(work, DraftWork) and work.call.optimistic
