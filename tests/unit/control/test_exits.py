"""The choice of the exit layer: most tokens per computed layer, by each exit's past agreement."""

from __future__ import annotations

from itertools import product

import pytest

from adasd.control.exits import Agreement, Exits


def with_chances(num_layers: int, *chances: float) -> Exits:
    """Exits after layers 1, 2, ... that agree with these chances."""
    return Exits(num_layers, tuple(Agreement(i, 100 * a, 100.0) for i, a in enumerate(chances, 1)))


def test_tokens_per_layer_worked_by_hand():
    exits = with_chances(4, 0.5)
    # one token of layer 1: (1 + 0.5) tokens for 1 + 4 layers; two: (1 + 0.5 + 0.25) for 2 + 4
    assert exits.rate(exits.seen[0], 1) == pytest.approx(1.5 / 5)
    assert exits.rate(exits.seen[0], 2) == pytest.approx(1.75 / 6)
    assert (exits.best(8).layer, exits.best(8).length) == (1, 1)


@pytest.mark.parametrize("chances", list(product((0.1, 0.5, 0.9), repeat=3)), ids=str)
def test_the_best_is_the_best_of_all(chances):
    exits = with_chances(8, *chances)
    best = exits.best(6)
    rates = {
        (one.layer, d): sum(one.chance**i for i in range(d + 1)) / (d * one.layer + 8)
        for one in exits.seen
        for d in range(1, 7)
    }
    assert rates[best.layer, best.length] == pytest.approx(max(rates.values()))


def test_an_early_exit_that_agrees_wins_and_a_hopeless_one_drafts_a_single_token():
    assert with_chances(8, 0.9, 0.92, 0.95).best(16).layer == 1
    assert with_chances(8, 0.01).best(16).length == 1


def test_evidence_moves_the_choice_and_old_evidence_fades():
    exits = Exits.of(6)
    assert exits.layers == (1, 2, 3, 4, 5)
    for _ in range(200):
        exits = exits.learn([[False] * 3] * 3 + [[True] * 3] * 2, [[0.5] * 3] * 5)
    assert exits.best(8).layer == 4
    for _ in range(200):
        exits = exits.learn([[True] * 3] * 5, [[0.9] * 3] * 5)
    assert exits.best(8).layer == 1
    assert exits.best(8).length == 8


def test_the_floor_lies_between_hits_and_misses():
    exits = Exits.of(3)
    assert exits.seen[0].confidence_floor == 0.0
    for _ in range(300):
        exits = exits.learn([[True, False]] * 2, [[0.9, 0.3]] * 2)
    assert exits.seen[0].confidence_floor == pytest.approx(0.6, abs=0.01)


def test_deep_models_have_few_exits():
    layers = Exits.of(80).layers
    assert len(layers) == 8
    assert 0 < layers[0] < layers[-1] < 80
    assert Exits.of(2).layers == (1,)
