"""A clock that tests move by hand."""

from __future__ import annotations


class FakeClock:
    """An ``adasd.ports.Clock`` in seconds."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` (>= 0) pass."""
        assert seconds >= 0, seconds
        self.now_s += seconds
