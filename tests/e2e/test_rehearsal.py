"""The two-tier overlay on a real multi-node Ray cluster: its nodes, its configuration, a roll-out under load."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from load_tests.rehearsal import TWO_TIER, rehearse

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_two_tier_overlay_serves_and_changes_under_load():
    said = io.StringIO()
    rehearse(TWO_TIER / "topology.yaml", TWO_TIER / "cluster.yaml", Console(file=said, width=200))
    steps = said.getvalue()
    assert "2 orchestrator, 1 target, 1 draft, each in its pool" in steps
    assert "target.num_slots 12 -> 13 during" in steps
    assert "0 processes left" in steps
