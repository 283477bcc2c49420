"""Progress of a load test: a live line in a terminal, a line from time to time in a log."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from load_tests.load.answers import GOOD, Outcome
from load_tests.load.generator import percentile
from load_tests.load.stage import Stage

LOG_EVERY_S = 5.0
RECENT_S = 5.0


class Progress:
    """A context manager that owns the live line; ``show`` is called twice per second."""

    def __init__(self, console: Console) -> None:
        self._console, self._logged_s = console, 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, stage: Stage) -> None:
        """Show the state of the run."""
        if self._console.is_terminal:
            self._live.update(Text(line(stage), no_wrap=True, overflow="ellipsis"), refresh=True)
        elif stage.generator.now() - self._logged_s >= LOG_EVERY_S:
            self._logged_s = stage.generator.now()
            self._console.print(line(stage), soft_wrap=True, highlight=False, markup=False)


def line(stage: Stage) -> str:
    """Time, load, outcomes, and the newest times to first token."""
    generator = stage.generator
    now_s, answers = generator.now(), generator.answers
    ended = [answer for answer in answers if answer.ended_s]
    good = sum(answer.outcome in GOOD for answer in ended)
    recent = [answer for answer in reversed(answers[-500:]) if answer.ended_s > now_s - RECENT_S]
    firsts = [1e3 * first for answer in recent if (first := answer.first_token_s) is not None]
    parts = [
        f"{now_s:4.0f} s",
        answers[-1].phase if answers else "looking",
        f"{len(answers)} sent",
        f"{good} well",
        f"{len(ended) - good} badly",
        f"{generator.num_in_flight} under way",
        f"{sum(a.outcome is Outcome.DONE for a in recent) / RECENT_S:.1f} answers/s",
    ]
    if firsts:
        parts.append(f"first token {percentile(firsts, 0.5):.0f} ms (p95 {percentile(firsts, 0.95):.0f})")
    return " · ".join(parts)
