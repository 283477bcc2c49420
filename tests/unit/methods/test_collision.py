"""The rule ``collision``: its constant follows from the request's budget, and it needs no draft probabilities."""

import pytest

from adasd.config import SpeculationConfig
from adasd.control.controller import Controller
from adasd.methods.acceptance.collision import Collision
from adasd.methods.policy import RoundOutlook
from adasd.methods.registry import acceptance_method
from adasd.requests import Mode, SpeculationOptions
from adasd.rounds import SamplingTransform
from tests.unit.methods.rounds import a_round

GREEDY, SAMPLED, SEEDED = SamplingTransform(temperature=0.0), SamplingTransform(), SamplingTransform(seed=1)


def begun(transform=GREEDY, **options):
    controller = Controller(SpeculationConfig(bypass=False))
    wanted = SpeculationOptions(mode=Mode.ADAPTIVE, acceptance="collision", **options)
    return controller.session(controller.effective(wanted), transform)


@pytest.mark.parametrize(
    ("num_emitted", "num_relaxed", "ratio"),
    [
        (0, 0, 0.5),  # nothing has been emitted, so nothing may be relaxed yet
        (16, 2, 0.5),  # 2 of 4
        (16, 3, 0.75),
        (16, 4, 1.0),
        (100, 20, 0.8),
        (100, 5, 0.5),  # later, the budget has grown
        (100, 25, 1.0),
    ],
)
def test_the_ratio_is_the_spent_share_of_the_budget_from_one_half_on(num_emitted, num_relaxed, ratio):
    outlook = RoundOutlook(16, 100, num_emitted, num_relaxed, max_relaxed_fraction=0.25)
    assert Collision().decide(None, outlook) == {"ratio": pytest.approx(ratio)}


def test_no_budget_is_exact():
    assert Collision().decide(None, RoundOutlook(16, 100, max_relaxed_fraction=0.0)) is None


def test_the_request_s_fraction_reaches_the_rule():
    # 12 of 0.125 * 128 = 16 are spent; 16 of 132 would still be less than an eighth, 17 of 133 would be more
    rule = begun(max_relaxed_fraction=0.125).plan(100, 128, 12).accept
    assert (rule.name, rule.params) == ("collision", {"ratio": 0.75})
    assert rule.relax_budget == 4
    assert not rule.want_distances


@pytest.mark.parametrize(("transform", "row_len"), [(GREEDY, 0), (SEEDED, 0), (SAMPLED, 128)])
def test_rows_travel_only_where_rejection_sampling_needs_them(transform, row_len):
    assert begun(transform).plan(100, 0, 0).draft.row_len == row_len


def test_it_depends_on_the_request_alone():
    session = begun()
    before = session.plan(100, 10, 1).accept
    for _ in range(50):
        session.learn(a_round(1, 3, [0.1, 0.5, 0.2]))
    assert session.plan(100, 10, 1).accept == before


def test_the_published_constants():
    outlook = RoundOutlook(16, 100)
    typical, fsd, fly = (acceptance_method(name) for name in ("typical", "fsd", "fly"))
    assert typical.decide(None, outlook) == {"epsilon": 0.09, "delta": 0.3}
    assert fsd.decide(None, outlook) == {"max_distance": pytest.approx(0.442, abs=0.001)}
    assert fly.decide(None, outlook)["window"] == 6
    assert typical.learn(typical.start(None), a_round(1, 2)) is None


def test_there_is_no_distance_to_report():
    assert begun().acceptance_threshold is None
