"""What an evaluation found, as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from adasd.evaluate.cells import FLOOR, Cell, Summary
from adasd.evaluate.evaluation import Evaluation
from adasd.evaluate.intervals import Interval
from adasd.evaluate.method_figures import COST_RATIOS, MethodFigures
from adasd.evaluate.published import Claim
from adasd.evaluate.tables import known
from cluster.evaluation.agreement import Agreement
from cluster.evaluation.exact_series import Tested


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table whose first ``left`` columns are text."""
    rule = "|---" * left + "|--:" * (len(head) - left) + "|"
    return "\n".join([f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])


def of(interval: Interval) -> str:
    """A ratio with its interval."""
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def summaries(found: Sequence[Summary]) -> str:
    """Exact methods over all cells, the best mean first."""
    head = ("Method", "geometric mean", "worst cell", "where", f"cells below {FLOOR}", f"shown above {FLOOR}")
    rows = [
        (
            one.method,
            f"{one.mean.value:.3f} [{one.mean.low:.3f}, {one.mean.high:.3f}]",
            f"{one.worst:.2f}",
            one.worst_cell,
            str(one.num_below),
            str(one.num_shown),
        )
        for one in sorted(found, key=lambda one: -one.mean.value)
    ]
    return table(head, rows)


def by_circumstance(found: Sequence[Cell]) -> str:
    """A line per pair, temperature and cost; a column per method."""
    methods = list(dict.fromkeys(cell.method for cell in found))
    lines: dict[tuple[str, float, str], dict[str, Cell]] = {}
    for cell in found:
        lines.setdefault((cell.pair, cell.temperature, cell.cost), {})[cell.method] = cell
    rows = []
    for (pair, temperature, cost), by_method in lines.items():
        ours = by_method[methods[-1]]
        rows.append(
            (
                pair,
                f"{temperature:g}",
                cost,
                ours.static,
                *(f"{by_method[name].over_static.value:.2f}" for name in methods),
                f"{ours.over_static.low:.2f} to {ours.over_static.high:.2f}",
                f"{ours.over_off.value:.2f}",
            )
        )
    head = ("Pair", "T", "cost", "best static", *methods, "95 %", f"{methods[-1]} over off")
    return table(head, rows, 4)


def answers(report: Evaluation) -> Iterator[str]:
    """Lossy and exact methods end to end, a table per temperature."""
    head = (
        "Method",
        "right, %",
        "change, points (95 %)",
        "tokens per pass",
        "relaxed, %",
        "distortion per relaxed token",
        "NLL per token, nats",
        "NLL added per relaxed token",
        *(f"c={ratio:g}" for ratio in COST_RATIOS),
    )
    for temperature in report.temperatures:
        rows = [_answer_row(row) for row in report.of(temperature)]
        yield f"### Temperature {temperature:g}, {report.of(temperature)[0].num_answers} answers per line"
        yield table(head, rows)


def _answer_row(row: MethodFigures) -> tuple[str, ...]:
    return (
        row.method,
        known(None if row.accuracy is None else 100 * row.accuracy, ".1f"),
        f"{100 * row.accuracy_change:+.1f} [{100 * row.change_low:+.1f}, {100 * row.change_high:+.1f}]",
        f"{row.tokens_per_round:.2f}",
        f"{100 * row.relaxed_share:.1f}",
        known(row.distortion_per_relaxed, ".2f"),
        known(row.nll_per_token, ".3f"),
        known(row.nll_per_relaxed, "+.2f"),
        *(f"{speed:.2f}" for speed in row.speed_ups),
    )


def claims(found: Sequence[Tested], untested: Sequence[Claim]) -> str:
    """Every published claim with its verdict; the ratios are those of ``claim_ratios``."""
    rows = [
        (
            one.claim.paper,
            one.claim.text,
            one.claim.published,
            _span([ratio.value for ratio in one.ratios.values()]),
            one.verdict.value,
        )
        for one in found
    ]
    rows += [
        (one.paper, one.text, one.published, f"`{one.command}`", "not testable here") for one in untested
    ]
    return table(
        ("Paper", "Claim", "published", "here, or the command that would test it", "verdict"), rows, 5
    )


def claim_ratios(found: Sequence[Tested]) -> str:
    """The ratio of each claim on each pair; claims of the same two methods share a line."""
    distinct: dict[tuple[str, str], Mapping[str, Interval]] = {}
    for one in found:
        distinct.setdefault((one.claim.ours, one.claim.base), one.ratios)
    rows = [
        (ours, base, where, of(ratio))
        for (ours, base), ratios in distinct.items()
        for where, ratio in ratios.items()
    ]
    return table(("Ours", "over", "pair", "ratio [95 %]"), rows, 3)


def agreements(found: Sequence[Agreement]) -> str:
    """Speeds over plain decoding, by CPU time and replayed."""
    rows = [
        (one.method, f"{one.measured:.2f}", f"{one.replayed:.2f}", f"{one.replayed / one.measured - 1:+.1%}")
        for one in found
    ]
    return table(("Method", "by CPU time", "replayed", "difference"), rows)


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}" if values else ""
