"""Time that stands still until told otherwise."""

from __future__ import annotations


class FakeClock:
    """``adasd.ports.Clock``: seconds, moved by hand."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` (>= 0) pass."""
        assert seconds >= 0, seconds
        self.now_s += seconds
