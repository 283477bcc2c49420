"""The service-level objective: of the simulator and the planner, and of the load tests."""

from __future__ import annotations

from dataclasses import dataclass

from adasd.errors import ConfigError

NAMES = {"ttft": "first_token_ms", "tpot": "per_token_ms", "share": "share"}
"""Fields by their names on the command line."""


@dataclass(frozen=True, slots=True)
class Objective:
    """An answer is good if its first token came within ``first_token_ms`` and the others at ``per_token_ms`` or faster.

    The objective is held if ``share`` of the answers are good.
    """

    first_token_ms: float = 500.0
    per_token_ms: float = 50.0  # mean of an answer after its first token
    share: float = 0.95

    @classmethod
    def parse(cls, text: str) -> Objective:
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
        made = cls(**found)
        if not (made.first_token_ms > 0 and made.per_token_ms > 0 and 0 < made.share <= 1):
            raise ConfigError(f"an objective needs times above 0 and a share above 0 and up to 1, not {made}")
        return made

    def __str__(self) -> str:
        return f"ttft={self.first_token_ms:g},tpot={self.per_token_ms:g},share={self.share:g}"
