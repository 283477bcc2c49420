"""What one step computes: which calls take part, and how much of each. No tensors.

Every waiting call takes part in every step, except prompts: they share a budget of tokens per step and take turns,
so that running sessions keep their pace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adasd.config import EngineConfig
from adasd.cost_table import CostTable
from adasd.engine.work import SHORT_FEED, DraftWork, StepInput, VerifyWork, Work
from adasd.specdec.verification_budget import share, share_by_cost

CROWDED_SHARE = 4
"""Optimistic drafting yields while more than 1 / CROWDED_SHARE of the slots have committed work waiting."""

LONGEST_DRAFT, SHARED_DRAFT = 16, 4
"""Most tokens of one multi-step draft: alone in its step, or while other calls wait for it to end."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A call and what it feeds in this step."""

    work: Work
    input: StepInput


@dataclass(frozen=True, slots=True)
class PrefillBudget:
    """Prompt tokens that one step computes, over all sessions.

    If it ``yields``, it shrinks while other calls run, so that a step takes about twice as long as without prompts.
    """

    num_tokens: int
    yields: bool = False
    smallest: int = SHORT_FEED
    per_sequence: int = 0  # cost of one more sequence in the pass, in prompt tokens

    def beside(self, running: Sequence[Scheduled]) -> int:
        """The budget of a step that also runs these calls."""
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
        """The calls of the next step, sorted by ``attention_order``, and calls that are complete without a pass."""
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
        """Record how long a pass over ``num_tokens`` tokens took."""
        self._cost = self._cost.add(num_tokens, ms)

    def draft_limit(self, drafting: Sequence[Scheduled], *, alone: bool) -> int:
        """Most tokens that a multi-step draft of these calls may take."""
        if self.crowded and any(_is_optimistic(one.work) for one in drafting):
            return 1
        return LONGEST_DRAFT if alone else SHARED_DRAFT

    @property
    def crowded(self) -> bool:
        """Whether so much committed work waits that optimistic drafting stops after its first token."""
        return sum(not _is_optimistic(work) for work in self.waiting.values()) > self._most_committed

    def _cut_blocks(self, budget: int) -> None:
        """Cut the blocks that this step judges to the verification budget (0: to what is worth its time)."""
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
        """Chunks of the prompts that waited longest: as many as fit the budget, at least one.

        A prompt looks for a cached prefix only when its turn comes, so of several prompts with a common prefix that
        arrive together, each reuses what the one before it has computed.
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
        """The next input of an incomplete call; its session gets a slot of the cache if it has none."""
        if not work.slot.is_placed:
            self._place(work)
        following = work.next_input(chunk)
        assert following is not None, "the last token of a prompt is never found"
        return Scheduled(work, following)


def _is_optimistic(work: Work) -> bool:
    return isinstance(work, DraftWork) and work.call.optimistic
