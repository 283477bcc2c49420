"""The learning rate by tokens seen: warm-up, constant, then linear decay to zero over the last 35 %."""

from dataclasses import dataclass

WARMUP_STEPS = 50
DECAY_SHARE = 0.35


@dataclass(frozen=True, slots=True)
class Schedule:
    """Constant at `level` up to `knee` tokens, then linear to zero at `total` tokens."""

    total: int
    knee: int
    level: float = 1.0

    @classmethod
    def fresh(cls, total: int) -> "Schedule":
        """The schedule of a new run of `total` tokens."""
        return cls(total, round(total * (1 - DECAY_SHARE)))

    def scale(self, step: int, num_tokens: int) -> float:
        """The factor on the learning rates, in [0, 1], for step `step` (from 0) after `num_tokens` tokens."""
        warmup = min(1.0, (step + 1) / WARMUP_STEPS)
        left = (self.total - num_tokens) / max(1, self.total - self.knee)
        return warmup * self.level * max(0.0, min(1.0, left))

    def replanned(self, total: int, num_tokens: int) -> "Schedule":
        """The schedule for another total after `num_tokens`: decay starts where it would, but not in the past.

        A decay that has begun continues from its current level.
        """
        if total == self.total:
            return self
        if num_tokens <= self.knee:
            return Schedule(total, max(num_tokens, Schedule.fresh(total).knee), self.level)
        return Schedule(total, num_tokens, self.scale(WARMUP_STEPS, num_tokens))
