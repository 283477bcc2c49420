"""Milliseconds of a forward pass by its sessions and tokens, measured or assumed: a curve of points."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from adasd.errors import ConfigError

Line = tuple[tuple[float, float], ...]
"""(tokens of the pass, milliseconds), by rising tokens."""


@dataclass(frozen=True, slots=True)
class PassCurve:
    """Passes by the sessions that take part: for each number of sessions a line over the tokens of the pass.

    Between points and between lines it is linear. Beyond the last point a line goes on with its last slope; beyond
    the last number of sessions its line is used.
    """

    lines: tuple[tuple[int, Line], ...]  # by rising number of sessions
    _known: dict[tuple[int, int], float] = field(default_factory=dict, compare=False, repr=False)

    def ms(self, num_sessions: int, num_tokens: int) -> float:
        """A pass of so many sessions over so many tokens in all."""
        known = self._known.get((num_sessions, num_tokens))
        if known is None:
            known = self._known[num_sessions, num_tokens] = self._at(num_sessions, num_tokens)
        return known

    def _at(self, num_sessions: int, num_tokens: int) -> float:
        above = bisect_right(self.lines, num_sessions, key=lambda line: line[0])
        if above == 0:
            return along(self.lines[0][1], num_tokens)
        few, its_line = self.lines[above - 1]
        low_ms = along(its_line, num_tokens)
        if above == len(self.lines) or few == num_sessions:
            return low_ms
        many, line = self.lines[above]
        return low_ms + (num_sessions - few) / (many - few) * (along(line, num_tokens) - low_ms)


def along(line: Line, num_tokens: float) -> float:
    """The value of a line of points at that number of tokens."""
    above = bisect_right(line, num_tokens, key=lambda point: point[0])
    if above == 0 or len(line) == 1:
        return line[0][1]
    (x0, y0), (x1, y1) = line[max(0, min(above, len(line) - 1) - 1) : min(above, len(line) - 1) + 1]
    return y0 + (num_tokens - x0) * (y1 - y0) / (x1 - x0)


def curve_of(points: Mapping[int, Iterable[Sequence[float]]], whose: str) -> PassCurve:
    """The curve through ``sessions: [[tokens, ms], ...]``. ConfigError, which names the points that disagree."""
    lines = []
    for num_sessions, given in sorted(points.items()):
        line = tuple(sorted((float(tokens), float(ms)) for tokens, ms in given))
        _check_line(line, num_sessions, whose)
        lines.append((num_sessions, line))
    if not lines:
        raise ConfigError(f"{whose}: there is no point; give at least one as sessions: [[tokens, ms]]")
    for (few, low), (many, high) in pairwise(lines):
        if high[0][1] < low[0][1]:
            raise ConfigError(
                f"{whose}: the smallest pass of {many} sessions takes {high[0][1]:g} ms and that of {few} takes "
                f"{low[0][1]:g} ms; more sessions cannot be faster, so one of the two is wrong"
            )
    return PassCurve(tuple(lines))


def _check_line(line: Line, num_sessions: int, whose: str) -> None:
    what = f"{whose}: a pass of {num_sessions} session" + "s" * (num_sessions != 1)
    if num_sessions < 1 or not line:
        raise ConfigError(
            f"{what} has no point; give each number of sessions (1 or more) its [[tokens, ms], ...]"
        )
    for tokens, ms in line:
        if tokens < num_sessions or not 0.0 < ms < float("inf"):
            raise ConfigError(
                f"{what} over {tokens:g} tokens in {ms:g} ms is impossible; each session has at least one token, and "
                "every pass takes some time"
            )
    for (few, fast), (many, slow) in pairwise(line):
        if few == many and fast != slow:
            raise ConfigError(
                f"{what} over {few:g} tokens takes both {fast:g} and {slow:g} ms; keep one of them"
            )
        if slow < fast:
            raise ConfigError(
                f"{what} takes {fast:g} ms over {few:g} tokens and {slow:g} ms over {many:g}; more tokens cannot be "
                "faster, so one of the two is wrong"
            )
