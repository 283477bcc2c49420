"""Replicas, nodes and links of a real cluster fail under load, its configuration changes: no client notices."""

from __future__ import annotations

from typing import Any

import pytest

from load_tests.faults import chaos
from load_tests.faults.faults import possible

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

NUM_REQUESTS = 200
CONCURRENCY = 16


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return chaos.run(
        chaos.DEMO / "target",
        chaos.DEMO / "draft",
        NUM_REQUESTS,
        CONCURRENCY,
        every_s=4.0,
        seed=0,
        max_tokens=96,
        drafts_gone_s=8.0,
    )


def test_nobody_notices(found):
    """Every answer is complete and equal to one without faults; no slot, lease, stream, call, task or file is left."""
    assert chaos.complaints(found) == []
    assert found["requests"] >= NUM_REQUESTS


def test_everything_happened(found):
    assert {fault["kind"] for fault in found["faults"]} == set(possible())


def test_the_first_token_after_a_lost_target_is_reported(found):
    assert found["first_token_after_target_loss_s"]["of"] > 0
