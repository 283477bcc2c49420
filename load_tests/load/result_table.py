"""The result in the terminal: one table, and the most important sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = (
    "requests",
    "failed",
    "answers\n/s",
    "tokens\n/s",
    "first token\nms",
    "per token\nms",
    "goodput\n/s",
    "good",
    "accepted",
    "right",
)


def table(result: Mapping[str, Any]) -> Table:
    """All answers, then each phase and each kind if there are several. Times: median (99th percentile)."""
    shown = Table(title=f"{result['scenario']}: {result['about']}", title_justify="left")
    shown.add_column("", no_wrap=True, min_width=8)
    for column in COLUMNS:
        shown.add_column(column, justify="right", no_wrap=True)
    groups = [result["figures"]]
    for name in ("phases", "kinds"):
        if len(result[name]) > 1:
            groups += result[name]
    for group in groups:
        shown.add_row(group["name"], *cells(group))
    return shown


def cells(group: Mapping[str, Any]) -> Iterator[str]:
    """One row."""
    outcomes = group["outcomes"]
    yield str(group["num_requests"])
    yield str(sum(outcomes.get(name, 0) for name in ("failed", "overloaded", "cut")))
    yield f"{group['answers_per_s']:.1f}"
    yield f"{group['tokens_per_s']:.0f}"
    yield times(group["first_token_ms"])
    yield times(group["per_token_ms"])
    yield f"{group['goodput_per_s']:.1f}"
    yield f"{group['attainment']:.1%}"
    yield percent(group["acceptance"])
    yield percent(group["right"])


def times(spread: Mapping[str, float | None]) -> str:
    if spread["p50"] is None:
        return ""
    return f"{short(spread['p50'])} ({short(spread['p99'])})"


def short(value: float | None) -> str:
    """Three digits, never with an exponent."""
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def before_and_after(result: Mapping[str, Any]) -> Table | None:
    """What the server held before and after, side by side; None if it was not recorded."""
    ends = [flat(result["server"][name]) for name in ("before", "after") if result["server"][name]]
    if len(ends) < 2:
        return None
    shown = Table("the server while nobody asks", "before", "after", title_justify="left")
    for name in ends[1]:
        shown.add_row(name, *(f"{end.get(name, 0):g}" for end in ends))
    return shown


HELD = (
    "targets",
    "drafts",
    "leases",
    "sessions",
    "streams",
    "pending_calls",
    "resident_mb",
    "open_files",
    "tasks",
    "threads",
)


def flat(snapshot: Mapping[str, Any]) -> dict[str, float]:
    """Figures of the replicas, then those of all processes."""
    service, own = snapshot["service"] or {}, snapshot["processes"] or {}
    found = {f"replicas: {name.replace('_', ' ')}": service[name] for name in HELD if name in service}
    return found | {f"all processes: {name.replace('_', ' ')}": value for name, value in own.items()}


def show(result: Mapping[str, Any], console: Console) -> None:
    """Table, notes, verdict."""
    console.print(table(result))
    ends = before_and_after(result)
    if ends is not None:
        console.print(ends)
    for sentence in sentences(result):
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)


def sentences(result: Mapping[str, Any]) -> Iterator[str]:
    """Notes, then problems, then the verdict."""
    yield from result["notes"]
    objective = result["objective"]
    yield (
        f"good: whole, first token within {objective['first_token_ms']:g} ms of its intended time, "
        f"{objective['per_token_ms']:g} ms per token"
    )
    if result["faults"]:
        faults = (f"{fault['kind']} at {fault['at_s']:.0f} s" for fault in result["faults"])
        yield f"faults: {', '.join(faults)}"
    if why := result["generator"]["bottleneck"]:
        yield f"! the load generator was a bottleneck, so times may be its own: {why}"
    yield from (f"! {error['num_answers']} ended so: {error['what']}" for error in result["errors"])
    yield from (f"✗ {problem}" for problem in result["problems"])
    if result["ended_early"]:
        yield f"✗ {result['ended_early']}; {result['figures']['num_requests']} requests until then are kept"
    elif not result["problems"]:
        yield "✓ passed"
