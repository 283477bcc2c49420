"""All figures of one evaluation, the baselines to beat, and export as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adasd.evaluate.compared_methods import PLAIN
from adasd.evaluate.measure import MethodRun
from adasd.evaluate.method_figures import COST_RATIOS, MethodFigures, figures

ALL = "all"
"""Name of the group that holds every answer."""


@dataclass(frozen=True, slots=True)
class ThresholdTrace:
    """Thresholds of one method at one temperature after each answer."""

    method: str
    temperature: float
    generation: tuple[float | None, ...]  # entropy ceiling, nats
    acceptance: tuple[float | None, ...]  # Jensen-Shannon distance


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures per method, temperature and group; ``about`` describes the run."""

    about: dict[str, Any]  # commit, hardware, models, workload, seeds, settings
    rows: tuple[MethodFigures, ...]
    traces: tuple[ThresholdTrace, ...]

    @property
    def temperatures(self) -> list[float]:
        return list(dict.fromkeys(row.temperature for row in self.rows))

    @property
    def groups(self) -> list[str]:
        """Groups, ``all`` first."""
        return list(dict.fromkeys(row.group for row in self.rows))

    def of(self, temperature: float, group: str = ALL) -> list[MethodFigures]:
        """One row per method."""
        return [row for row in self.rows if row.temperature == temperature and row.group == group]

    def best_static(self, temperature: float, group: str, ratio_index: int) -> MethodFigures | None:
        """The fastest exact static length at a cost ratio: the baseline to beat; None if none was run."""
        static = [row for row in self.of(temperature, group) if _is_static(row.method)]
        return max(static, key=lambda row: row.speed_ups[ratio_index], default=None)

    def over_best_static(self, row: MethodFigures) -> tuple[float | None, ...]:
        """Per cost ratio: the method's modelled speed divided by that of the best static length."""
        best = [self.best_static(row.temperature, row.group, i) for i in range(len(COST_RATIOS))]
        return tuple(
            speed / static.speed_ups[i] if static else None
            for i, (speed, static) in enumerate(zip(row.speed_ups, best, strict=True))
        )

    def as_json(self) -> dict[str, Any]:
        """Everything as values that ``json`` can write."""
        return {
            "about": self.about,
            "cost_ratios": list(COST_RATIOS),
            "rows": [
                asdict(row)
                | {
                    "tokens_per_round": row.tokens_per_round,
                    "relaxed_share": row.relaxed_share,
                    "distortion_share": row.distortion_share,
                    "over_best_static": self.over_best_static(row),
                }
                for row in self.rows
            ],
            "traces": [asdict(trace) for trace in self.traces],
        }


def _is_static(method: str) -> bool:
    return method.startswith("static-") and not {"+", "@"} & set(method)


def build(runs: Sequence[MethodRun], about: dict[str, Any]) -> Evaluation:
    """The evaluation of runs over one workload. Each temperature needs a run of plain decoding."""
    plain = {run.temperature: run.answers for run in runs if run.method.name == PLAIN}
    rows, traces = [], []
    for run in runs:
        groups = list(dict.fromkeys(answer.group for answer in run.answers))
        for group in [ALL, *(groups if len(groups) > 1 else [])]:
            chosen = [i for i, answer in enumerate(run.answers) if group in (ALL, answer.group)]
            ours = [run.answers[i] for i in chosen]
            theirs = [plain[run.temperature][i] for i in chosen]
            rows.append(figures(run.method.name, run.temperature, group, ours, theirs))
        generation = tuple(answer.generation_threshold for answer in run.answers)
        acceptance = tuple(answer.acceptance_threshold for answer in run.answers)
        if any(value is not None for value in (*generation, *acceptance)):
            traces.append(ThresholdTrace(run.method.name, run.temperature, generation, acceptance))
    return Evaluation(about, tuple(rows), tuple(traces))
