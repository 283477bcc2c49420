"""Replicas, nodes and the controller of a real multi-node cluster are killed under load, and nobody notices."""

from __future__ import annotations

import pytest

from load_tests import chaos

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

NUM_REQUESTS = 300
CONCURRENCY = 16


@pytest.fixture(scope="module")
def found():
    demo = chaos.ROOT / "models" / "demo"
    return chaos.run(
        demo / "target", demo / "draft", NUM_REQUESTS, CONCURRENCY, every_s=5.0, seed=0, max_tokens=96
    )


def test_every_request_completes(found):
    assert found["requests"] == NUM_REQUESTS
    assert found["failed"] == []


def test_answers_are_those_of_a_calm_day(found):
    assert found["wrong"] == []


def test_something_was_killed(found):
    assert len(found["kills"]) >= 3


def test_nothing_is_left_and_both_tiers_serve_again(found):
    assert found["leftovers"] == dict.fromkeys(chaos.HELD, 0.0)
    assert found["ready"] == {"ready": True, "degraded": False, "reasons": []}
