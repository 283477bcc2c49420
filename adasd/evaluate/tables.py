"""The evaluation as tables for the terminal, one per temperature."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table

from adasd.evaluate.evaluation import ALL, Evaluation
from adasd.evaluate.method_figures import COST_RATIOS, MethodFigures

COLUMNS = (
    "method",
    "right",
    "change, points",
    "tok/pass",
    "accepted",
    "relaxed",
    "distort.",
    "passes",
    "drafted",
)
"""``relaxed`` is what relaxation gains in acceptance; ``distort.`` is how much it changes the distribution."""


def tables(report: Evaluation) -> Iterator[Table]:
    """One table per temperature, over all groups; then the accuracy per group."""
    for temperature in report.temperatures:
        yield _overall(report, temperature)
        if len(report.groups) > 1:
            yield _by_group(report, temperature)


def _overall(report: Evaluation, temperature: float) -> Table:
    table = Table(
        title=f"temperature {temperature:g}, {report.of(temperature)[0].num_answers} answers",
        box=box.SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
    )
    for name in (*COLUMNS, *(f"c={ratio:g}" for ratio in COST_RATIOS), "/static", "wall", "cpu"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for row in report.of(temperature):
        table.add_row(*cells(row), *(f"{speed:.2f}" for speed in row.speed_ups), *_against(report, row))
    best = [report.best_static(temperature, ALL, i) for i in range(len(COST_RATIOS))]
    names = ", ".join(
        f"{row.method} at c={ratio:g}" for row, ratio in zip(best, COST_RATIOS, strict=True) if row
    )
    if names:
        table.caption = (
            f"c: modelled speed-up over plain decoding at that cost ratio; /static: over the best static length "
            f"at c={COST_RATIOS[1]:g}; wall, cpu: measured, by the clock and by CPU time; distort.: total variation "
            f"per token that relaxation cost, its expected gain in acceptance. "
            f"Best static: {names}."
        )
    return table


def cells(row: MethodFigures) -> tuple[str, ...]:
    """The values of COLUMNS."""
    judged = row.accuracy is not None
    return (
        row.method,
        f"{row.accuracy:.1%}" if row.accuracy is not None else "",
        f"{100 * row.accuracy_change:+.1f} [{100 * row.change_low:+.1f}, {100 * row.change_high:+.1f}]"
        if judged
        else "",
        f"{row.tokens_per_round:.2f}",
        f"{row.num_accepted / row.num_drafted:.2f}" if row.num_drafted else "",
        f"{row.relaxed_share:.1%}",
        known(row.distortion_share, ".1%"),
        str(row.num_rounds),
        str(row.num_drafted),
    )


def known(value: float | None, form: str) -> str:
    """The formatted value; empty if unknown."""
    return "" if value is None else format(value, form)


def _against(report: Evaluation, row: MethodFigures) -> tuple[str, str, str]:
    over = report.over_best_static(row)[1]
    return (
        "" if over is None else f"{over:.2f}",
        f"{row.measured_speed_up:.2f}",
        known(row.cpu_speed_up, ".2f"),
    )


def _by_group(report: Evaluation, temperature: float) -> Table:
    groups = report.groups[1:]
    table = Table(
        title=f"temperature {temperature:g}: right, relaxed, speed-up at c={COST_RATIOS[1]:g}",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("method", no_wrap=True)
    for group in groups:
        table.add_column(group, justify="right", no_wrap=True)
    by_group = [{row.method: row for row in report.of(temperature, group)} for group in groups]
    for row in report.of(temperature):
        table.add_row(row.method, *(_short(rows[row.method]) for rows in by_group))
    return table


def _short(row: MethodFigures) -> str:
    accuracy = "" if row.accuracy is None else f"{row.accuracy:.0%} "
    return f"{accuracy}{row.relaxed_share:.1%} {row.speed_ups[1]:.2f}"
