"""The service-level objective, and the goodput under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adasd.errors import ConfigError
from load_tests.load.answers import Outcome, Reply


@dataclass(frozen=True, slots=True)
class Objective:
    """An answer is good if it is complete and meets both times; a load passes if ``share`` of its answers are good."""

    first_token_ms: float = 500.0  # from the intended time of sending
    per_token_ms: float = 50.0  # mean, after the first chunk
    share: float = 0.95

    def holds_for(self, answer: Reply) -> bool:
        """Clients that disconnected are judged by what they received; expected refusals are good."""
        if answer.outcome is Outcome.REFUSED:
            return True
        if answer.outcome not in (Outcome.DONE, Outcome.LEFT):
            return False
        first_s, per_token_s = answer.first_token_s, answer.per_token_s
        if first_s is None or 1e3 * first_s > self.first_token_ms:
            return False
        return per_token_s is None or 1e3 * per_token_s <= self.per_token_ms

    def attainment(self, answers: Sequence[Reply]) -> float:
        """Share of good answers; 1 without answers."""
        return sum(map(self.holds_for, answers)) / len(answers) if answers else 1.0

    def is_held(self, answers: Sequence[Reply]) -> bool:
        return self.attainment(answers) >= self.share

    def __str__(self) -> str:
        return f"ttft={self.first_token_ms:g},tpot={self.per_token_ms:g},share={self.share:g}"


NAMES = {"ttft": "first_token_ms", "tpot": "per_token_ms", "share": "share"}


def parse(text: str) -> Objective:
    """``ttft=500,tpot=50,share=0.95`` (milliseconds; any part may be left out). ConfigError."""
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        try:
            found[NAMES[name]] = float(value)
        except (KeyError, ValueError):
            raise ConfigError(
                f"an objective is ttft=MS,tpot=MS,share=0..1, and {part!r} is no part of one"
            ) from None
    objective = Objective(**found)
    if objective.first_token_ms <= 0 or objective.per_token_ms <= 0 or not 0 < objective.share <= 1:
        raise ConfigError(f"an objective needs times above 0 and a share in (0, 1], not {objective}")
    return objective
