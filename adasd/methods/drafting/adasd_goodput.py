"""An entropy ceiling as in AdaSD or a fixed length: the one with the most tokens per millisecond."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from adasd.config import setting
from adasd.methods.block_replay import Block, Course, menu
from adasd.methods.drafting.goodput import round_ms
from adasd.methods.policy import DraftingMethod, RoundOutlook
from adasd.methods.registry import register_drafting
from adasd.rounds import RoundCompleted, StopRule


@dataclass(frozen=True, slots=True)
class MenuState:
    """Whole blocks, the menu computed from them, and the cost of drafting them."""

    blocks: tuple[Block, ...] = ()  # of the same length, the newest last
    courses: tuple[Course, ...] = ()  # the menu; empty until there are enough blocks
    num_new: int = 0  # blocks since ``courses`` was computed
    rounds: float = 0.0  # decayed number of rounds with a block
    tokens: float = 0.0  # decayed sum of their emitted tokens
    ms: float = 0.0  # decayed sum of their times
    lost: float = 0.0  # decayed sum of tokens that whole blocks lost against the mean rate

    @property
    def longest(self) -> int:
        return len(self.blocks[0].entropies) if self.blocks else 0


@register_drafting
@dataclass(frozen=True, slots=True)
class AdasdGoodput(DraftingMethod[MenuState]):
    """The best entry of a menu of ceilings and lengths (``menu``), by measured times.

    AdaSD's mean entropy of rejected tokens ignores the cost of a draft pass: at high temperature, where most uncertain
    tokens are accepted, it ends blocks too early. Here every static length is on the menu, so on the observed blocks no
    static length is better. Whole blocks show what the current rule cuts off; they are drafted while their loss is
    below ``probing`` of all tokens. Where long blocks are right they lose nothing, so evidence comes quickly.
    """

    probing: float = setting(0.005, "share of tokens that whole blocks may cost", low=0)
    memory: int = setting(64, "whole blocks that are kept", low=1, high=65536)
    refresh: int = setting(8, "whole blocks between two menus", low=1)
    fade: float = setting(0.99, "of sums, per round with a block", low=0)
    longest_round: float = setting(4.0, "times the mean one", low=0)
    name: ClassVar[str] = "adasd-goodput"
    summary: ClassVar[str] = (
        "the entropy ceiling or the length with the most tokens per millisecond, by replaying blocks"
    )
    source: ClassVar[str] = (
        "this project: AdaSD's ceiling (arXiv:2512.11280) priced by goodput, docs/algorithm.md"
    )

    def start(self, shared: MenuState | None) -> MenuState:
        return shared or MenuState()

    def decide(self, state: MenuState, outlook: RoundOutlook) -> StopRule:
        cap = outlook.max_draft_tokens
        probes = state.lost <= self.probing * state.tokens
        if probes or not state.courses or not outlook.has_times:
            return StopRule(cap)
        best = max(state.courses, key=lambda course: course.tokens / round_ms(outlook, course.length))
        return StopRule(min(cap, best.max_tokens), entropy_ceiling=best.entropy_ceiling)

    def learn(self, state: MenuState, round: RoundCompleted) -> MenuState:
        if not round.num_drafted:
            return state
        took_ms, tokens = round.draft_ms + round.verify_ms, round.verdict.num_accepted + 1
        sums = replace(
            state,
            rounds=self.fade * state.rounds + 1,
            tokens=self.fade * state.tokens + tokens,
            ms=self.fade * state.ms + took_ms,
            lost=self.fade * state.lost,
        )
        if not _is_whole(round, state.longest):
            return sums
        lost = max(0.0, sums.lost + self._worth(state, took_ms) - tokens)
        return self._with_block(replace(sums, lost=lost), round)

    def _worth(self, state: MenuState, took_ms: float) -> float:
        """Tokens that this time yields at the mean rate; an outlier counts as ``longest_round`` rounds at most."""
        if not state.ms:
            return 0.0
        return min(took_ms, self.longest_round * state.ms / state.rounds) * state.tokens / state.ms

    def _with_block(self, state: MenuState, round: RoundCompleted) -> MenuState:
        assert round.drafted is not None
        block = Block(round.drafted.entropies, round.verdict.num_accepted)
        alike = state.blocks if round.num_drafted == state.longest else ()
        blocks = (*alike, block)[-self.memory :]
        num_new = state.num_new + 1
        if num_new < self.refresh:
            return replace(state, blocks=blocks, num_new=num_new)
        return replace(state, blocks=blocks, courses=menu(blocks), num_new=0)


def _is_whole(round: RoundCompleted, longest: int) -> bool:
    """Whether only a cap ended the block, and it is at least as long as those before it."""
    drafted, rule = round.drafted, round.rule
    if drafted is None or rule is None or len(drafted.entropies) != round.num_drafted:
        return False
    free = rule.entropy_ceiling == math.inf and rule.confidence_floor == 0.0
    return free and round.num_drafted >= longest and all(map(math.isfinite, drafted.entropies))
