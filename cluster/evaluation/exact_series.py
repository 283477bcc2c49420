"""The exact methods over all traced pairs, and the published claims that traces can test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adasd.evaluate.cells import Cell, Circumstance, cells, circumstances
from adasd.evaluate.compared_methods import method
from adasd.evaluate.families.ask import Split
from adasd.evaluate.intervals import Interval, speed_ratio
from adasd.evaluate.published import Claim, Verdict, exact_claims, verdict
from adasd.evaluate.replay import replay
from adasd.evaluate.traces import Traces
from cluster.evaluation.traced_pairs import TracedPair

METHODS = (
    "static-5",
    "assisted:schedule=constant",
    "assisted:schedule=heuristic",
    "confidence",
    "adaedl",
    "on-the-fly",
    "goodput",
    "adasd",
    "adasd-goodput",
    "calibrated",
)
CLAIMED_AT = "c=0.1"
"""Cost at which published claims are tested."""


@dataclass(frozen=True, slots=True)
class Tested:
    """A published claim, the ratio per pair and temperature, and the verdict."""

    claim: Claim
    ratios: Mapping[str, Interval]

    @property
    def verdict(self) -> Verdict:
        return verdict(tuple(self.ratios.values()))


def all_circumstances(pair: TracedPair, traces: Mapping[Split, Traces]) -> list[Circumstance]:
    """Every source, temperature and cost of a pair."""
    return [
        at
        for source, test in traces[Split.TEST].items()
        for at in circumstances(f"{pair.name}, {source}", pair.costs(source), traces[Split.DEV][source], test)
    ]


def all_cells(found: Sequence[Circumstance]) -> list[Cell]:
    """Every method in every circumstance."""
    return [cell for at in found for cell in cells(at, METHODS)]


def tested(found: Sequence[Circumstance]) -> list[Tested]:
    """The claims of exact methods, where a useful draft model was traced; not with a hopeless one or a look-up."""
    useful = [at for at in found if at.cost == CLAIMED_AT and "hopeless" not in at.pair]

    def ratio(at: Circumstance, claim: Claim) -> Interval:
        ours, base = (
            [answer.pace for answer in replay(at.test, method(name), at.costs)]
            for name in (claim.ours, claim.base)
        )
        return speed_ratio(ours, base)

    return [
        Tested(claim, {f"{at.pair}, T={at.temperature:g}": ratio(at, claim) for at in useful})
        for claim in exact_claims()
    ]
