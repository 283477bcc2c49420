"""The start-up display: one line per step with a spinner and its time, or plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text


@dataclass(slots=True)
class StartStep:
    """One line; ``ended_s`` is None while it runs."""

    text: str
    begun_s: float
    ended_s: float | None = None


class Steps:
    """The lines, by name, in the order in which they began. A context manager that owns the live display."""

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        self.console, self.now = console, now
        self.steps: dict[str, StartStep] = {}
        self.spinner = Spinner("dots")
        self.live = Live(get_renderable=self.render, console=console, refresh_per_second=10, transient=False)

    def __enter__(self) -> Steps:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def show(self, name: str, text: str, done: bool = False) -> None:
        """Begin a step, change its text, or end it. Repeating the same text does nothing."""
        step = self.steps.setdefault(name, StartStep("", self.now()))
        if step.text == text and done == (step.ended_s is not None):
            return
        step.text, step.ended_s = text, self.now() if done else None
        if not self.console.is_terminal:
            self.console.print(self.line(name, step), soft_wrap=True, highlight=False)

    def line(self, name: str, step: StartStep) -> Text:
        seconds = (step.ended_s or self.now()) - step.begun_s
        mark = Text("✓ ", "green") if step.ended_s else Text("· ", "cyan")
        return mark + Text(f"{name:<13}", "bold") + Text(step.text) + Text(f"  {seconds:.1f} s", "dim")

    def render(self) -> Group:
        lines: list[Text | Spinner] = [self.line(name, step) for name, step in self.steps.items()]
        if any(step.ended_s is None for step in self.steps.values()):
            lines.append(self.spinner)
        return Group(*lines)
