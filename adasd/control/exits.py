"""Choice of the exit layer and the block length when a model drafts with its own first layers.

DEL (Entezari Zarch et al., 2025; arXiv:2504.05598). With L layers, an exit after layer l that agrees with the whole
model with chance a, and d drafted tokens, a round yields

    TPL(l, d) = (1 - a^(d + 1)) / ((1 - a) (d l + L))      tokens per layer computed,

and the pair (l, d) with the highest TPL is used for the next block. Agreement is counted on *shadow tokens*: at every
position that the whole model judges, each exit's first choice is compared with the model's, even if another exit
drafted. Within a block, drafting stops at a confidence below the midpoint of the means of the exit's hits and misses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

FADE = 0.98
"""Decay of the evidence per verdict: a memory of 50 verdicts."""
START_WEIGHT = 4.0
"""Weight of the agreement assumed before any evidence, in tokens."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often one exit's first choices match the whole model's, and their confidences."""

    layer: int  # layers computed, 1 to L - 1
    matches: float
    total: float
    sure_hits: float = 0.0  # sum of the exit's largest probabilities where it agreed
    sure_misses: float = 0.0  # and where it did not

    @property
    def chance(self) -> float:
        return self.matches / self.total

    @property
    def confidence_floor(self) -> float:
        """Midpoint of the mean confidences of hits and of misses; 0 if there are none of either."""
        misses = self.total - self.matches
        if self.sure_hits == 0.0 or self.sure_misses == 0.0 or misses <= 0.0:
            return 0.0
        return (self.sure_hits / self.matches + self.sure_misses / misses) / 2

    def plus(self, hits: Sequence[bool], confidences: Sequence[float]) -> Agreement:
        """The agreement after one verdict's tokens."""
        pairs = list(zip(hits, confidences, strict=True))
        return replace(
            self,
            matches=FADE * self.matches + sum(hits),
            total=FADE * self.total + len(pairs),
            sure_hits=FADE * self.sure_hits + sum(sure for hit, sure in pairs if hit),
            sure_misses=FADE * self.sure_misses + sum(sure for hit, sure in pairs if not hit),
        )


@dataclass(frozen=True, slots=True)
class Exit:
    """The exit layer and stop rule of the next block."""

    layer: int
    length: int  # tokens at most
    confidence_floor: float


@dataclass(frozen=True, slots=True)
class Exits:
    """All exits of a model of ``num_layers``."""

    num_layers: int
    seen: tuple[Agreement, ...]

    @classmethod
    def of(cls, num_layers: int, most: int = 8) -> Exits:
        """At most ``most`` exits, evenly spaced. Later exits are assumed to agree more often."""
        num = min(most, num_layers - 1)
        layers = sorted({round(num_layers * (i + 1) / (num + 1)) for i in range(num)})
        start = [
            Agreement(n, START_WEIGHT * n / num_layers, START_WEIGHT) for n in layers if 0 < n < num_layers
        ]
        return cls(num_layers, tuple(start))

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(one.layer for one in self.seen)

    def best(self, longest: int) -> Exit:
        """The exit and the length of 1 to ``longest`` tokens with the most tokens per layer."""
        pairs = [(one, length) for one in self.seen for length in range(1, longest + 1)]
        chosen, length = max(pairs, key=lambda pair: self.rate(pair[0], pair[1]))
        return Exit(chosen.layer, length, chosen.confidence_floor)

    def rate(self, exit: Agreement, length: int) -> float:
        """TPL: tokens per layer computed."""
        chance = min(exit.chance, 1 - 1e-6)
        tokens = (1 - chance ** (length + 1)) / (1 - chance)
        return tokens / (length * exit.layer + self.num_layers)

    def learn(self, hits: Sequence[Sequence[bool]], confidences: Sequence[Sequence[float]]) -> Exits:
        """Add one verdict: per exit and judged position, whether its first choice matched, and its confidence."""
        told = zip(self.seen, hits, confidences, strict=True)
        return replace(self, seen=tuple(one.plus(hit, sure) for one, hit, sure in told))
