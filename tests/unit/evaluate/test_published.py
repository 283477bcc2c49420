"""Published claims: every one can be run or names the command that would; verdicts follow from intervals alone."""

import numpy as np
import pytest

from adasd.evaluate.cells import FLOOR, cells, circumstances, summary
from adasd.evaluate.compared_methods import method
from adasd.evaluate.intervals import Interval
from adasd.evaluate.published import TABLE, Verdict, adasd_claims, exact_claims, untested_claims, verdict
from adasd.evaluate.replay import Costs
from cluster.evaluation.exact_series import METHODS
from cluster.evaluation.lossy_series import PAPER, demo_series, many_series, real_series
from tests.unit.evaluate.test_replay import trace

FASTER, SLOWER, EVEN = Interval(1.2, 1.1, 1.3), Interval(0.8, 0.7, 0.9), Interval(1.0, 0.9, 1.1)


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([FASTER, FASTER], Verdict.CONFIRMED),
        ([FASTER, EVEN], Verdict.MOSTLY),
        ([FASTER, SLOWER], Verdict.MOSTLY),
        ([EVEN], Verdict.MOSTLY),
        ([SLOWER, EVEN], Verdict.REFUTED),
        ([], Verdict.UNTESTED),
    ],
)
def test_verdicts(ratios, expected):
    assert verdict(ratios) is expected


def test_every_claim_can_be_run_or_says_what_would_test_it():
    assert len(adasd_claims()) == len(TABLE) * 3 + 3
    for claim in (*adasd_claims(), *exact_claims()):
        assert method(claim.ours) != method(claim.base)
    assert {claim.ours for claim in adasd_claims()} <= set(PAPER)
    for claim in untested_claims():
        assert claim.command.startswith("adasd ")


def test_every_series_names_known_methods_and_starts_with_plain_decoding():
    for series in (*demo_series(), *real_series("target"), *many_series()):
        for _, names in series.methods:
            assert names[0] == "off"
            assert all(method(name) for name in names)
    assert all(method(name) for name in METHODS)


def test_a_cell_is_measured_against_the_length_that_was_best_on_other_prompts():
    dev = [trace("+++-" * 5)] * 4  # static-3
    test = [trace("+" * 20), trace("+++-" * 5), trace("++-+" * 5)] * 5
    (at,) = circumstances("words", {"c=0.1": Costs(0.1)}, dev, test)
    same, longer = cells(at, ["static-3", "static-16"])
    assert same.static == "static-3"
    assert same.over_static == pytest.approx((1, 1, 1))
    assert same.over_off.value > 1.5
    assert longer.over_static.low <= longer.over_static.value <= longer.over_static.high


def test_the_summary_counts_cells_below_the_floor_and_keeps_prompts_together():
    dev, test = [trace("+-" * 10)] * 4, [trace("+-" * 10), trace("--" * 10), trace("++" * 10)] * 6
    found = [
        cell
        for at in circumstances("words", {f"c={c}": Costs(c) for c in (0.1, 0.3)}, dev, test)
        for cell in cells(at, ["static-1", "static-16"])
    ]
    good, bad = summary("static-1", found), summary("static-16", found)
    assert (good.num_below, good.num_shown, good.worst) == (0, 2, 1.0)
    assert bad.num_below == 2
    assert bad.worst < FLOOR
    assert bad.worst_cell == "words, T=0, c=0.3"
    logs = np.mean([np.log(cell.over_static.value) for cell in found if cell.method == "static-16"])
    assert bad.mean.value == pytest.approx(np.exp(logs))
    assert bad.mean.low < bad.mean.value < bad.mean.high
