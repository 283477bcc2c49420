"""The search for the cheapest numbers of targets and drafts, with objectives that hold by a formula."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from cluster.simulation import plan
from cluster.simulation.costs import Card, Pair
from cluster.simulation.curves import curve_of
from cluster.simulation.objective import Objective

PASSES = curve_of({1: [(1.0, 10.0)]}, "passes")


def checked(
    holds: Callable[[int, int], bool],
    monkeypatch: pytest.MonkeyPatch,
    draft_cost: float = 0.8,
    is_beside: bool = False,
) -> plan._Check:
    """A check of which every play meets the objective or does not."""
    monkeypatch.setattr(
        plan, "_play", lambda *given: SimpleNamespace(attainment=float(holds(given[-2], given[-1])))
    )
    draft = Card("draft", PASSES, cost_per_hour=draft_cost, is_beside=is_beside)
    pair = Pair(Card("target", PASSES, cost_per_hour=3.0), draft)
    wanted = SimpleNamespace(objective=Objective())
    return plan._Check(None, pair, None, wanted, lambda _: None)


@pytest.mark.parametrize("draft_cost", [0.1, 0.8, 2.9, 5.0])
@pytest.mark.parametrize(
    "holds",
    [
        lambda targets, drafts: targets >= 1 and drafts >= 3,
        lambda targets, drafts: targets >= 4 and drafts >= 1,
        lambda targets, drafts: 2 * targets + drafts >= 9,
        lambda targets, drafts: targets * drafts >= 12,
        lambda targets, drafts: targets >= 6,
    ],
)
def test_nothing_that_holds_is_cheaper(holds, draft_cost, monkeypatch):
    def cost(both: tuple[int, int]) -> float:
        return 3.0 * both[0] + draft_cost * both[1]

    check = checked(holds, monkeypatch, draft_cost)
    found = plan._cheapest(check, [(2, 7), (3, 2), (3, 1)])
    assert found is not None
    assert holds(*found)
    most = 7 + 3 + 3
    assert cost(found) == pytest.approx(
        min(cost((t, d)) for t in range(1, 20) for d in range(1, most + 1) if holds(t, d))
    )
    assert len(check.played) <= 20


def test_free_drafts_save_targets(monkeypatch):
    check = checked(lambda targets, drafts: 2 * targets + drafts >= 9, monkeypatch, draft_cost=0.0)
    assert plan._cheapest(check, [(3, 4)]) == (1, 7)


def test_a_draft_on_the_target_s_card_is_counted_with_it(monkeypatch):
    check = checked(lambda targets, drafts: targets >= 3 and drafts == targets, monkeypatch, 0.0, True)
    assert plan._cheapest(check, [(2, 2)]) == (3, 0)


def test_what_never_holds_is_given_up(monkeypatch):
    check = checked(lambda *_: False, monkeypatch)
    assert plan._cheapest(check, [(2, 2)]) is None
    assert len(check.played) <= plan.TRIES + 1


def test_many_replicas_are_found_in_few_plays(monkeypatch):
    check = checked(lambda targets, drafts: targets >= 730 and drafts >= 411, monkeypatch)
    assert plan._cheapest(check, [(700, 900)]) == (730, 411)
    assert len(check.played) <= 30
