"""The load cap that wraps every drafting method."""

from dataclasses import replace

import pytest

from adasd.config import SpeculationConfig
from adasd.control.controller import Controller
from adasd.control.load_cap import survival_needed, under_load
from adasd.cost_table import CostTable
from adasd.methods.policy import RoundOutlook
from adasd.methods.registry import drafting_methods
from adasd.requests import Mode, SpeculationOptions
from adasd.rounds import SamplingTransform, StopRule
from tests.unit.methods.rounds import a_round


def loaded(batch_size: float, per_token_ms: float, queue_ms: float | None = 5.0) -> RoundOutlook:
    """Passes of 10 ms plus ``per_token_ms`` per token; survival 0.8 per token; blocks of 4."""
    table = CostTable()
    for size in (1, 4, 16, 64, 256, 1024):
        table = table.add(size, 10 + per_token_ms * size)
    survival = tuple(0.8**k for k in range(1, 17))
    return RoundOutlook(
        16,
        100,
        survival=survival,
        draft_ms=1.0,
        hop_ms=1.0,
        verify_ms=10.0,
        cost=table,
        batch_size=batch_size,
        mean_block=4.0,
        queue_ms=queue_ms,
    )


def test_a_tokens_place_costs_what_its_time_would_have_brought_by_hand():
    # 16 sessions, blocks of 4: 80 tokens, 10 + 40 = 50 ms; each brings 1 + .8 + .64 + .512 + .4096 tokens;
    # one token more per session takes 0.5 ms
    expected = 0.5 * 16 * 3.3616 / 50
    assert survival_needed(loaded(16.0, 0.5)) == pytest.approx(expected, rel=0.02)
    capped = under_load(StopRule(16, entropy_ceiling=1.5), loaded(16.0, 0.5))
    assert capped == StopRule(2, entropy_ceiling=1.5)  # .8^2 = .64 > .54 > .8^3


def test_alone_or_with_room_the_policy_has_its_way():
    rule = StopRule(16)
    assert under_load(rule, loaded(1.0, 0.5)) == rule
    assert under_load(rule, loaded(64.0, 0.0)) == rule
    assert under_load(rule, replace(loaded(16.0, 0.5), cost=CostTable())) == rule
    assert under_load(rule, replace(loaded(16.0, 0.5), mean_block=None)) == rule


def test_a_target_with_gaps_has_more_room_than_a_busy_one():
    busy, idle = survival_needed(loaded(16.0, 0.5)), survival_needed(loaded(16.0, 0.5, queue_ms=0.0))
    assert busy is not None
    assert idle is not None
    assert idle < busy


def test_one_token_is_left_so_that_the_gate_can_judge_drafting():
    assert under_load(StopRule(16), loaded(256.0, 50.0)).max_tokens == 1
    assert under_load(StopRule(0), loaded(256.0, 50.0)).max_tokens == 0


@pytest.mark.parametrize("drafting", [method.name for method in drafting_methods()])
def test_every_policy_is_capped_under_load_and_free_without(drafting):
    def longest(load_aware: bool) -> int:
        controller = Controller(SpeculationConfig(load_aware=load_aware, bypass=False))
        effective = controller.effective(SpeculationOptions(Mode.EXACT, drafting, max_draft_tokens=8))
        session = controller.session(effective, SamplingTransform(temperature=0.0))
        for _ in range(60):
            size = 5 * 32
            done = a_round(1, 4, (0.2, 2.0, 2.0, 2.0), draft_ms=0.5, draft_compute_ms=0.4, verify_ms=60.0)
            for name, value in (
                ("batch_size", 32),
                ("batch_tokens", size),
                ("compute_ms", 10 + 0.3 * size),
                ("queue_ms", 30.0),
            ):
                object.__setattr__(done.verdict, name, value)
            session.learn(done)
            probe = a_round(1, 2, (0.2, 2.0), draft_ms=0.3, draft_compute_ms=0.2, verify_ms=40.0)
            for name, value in (("batch_size", 32), ("batch_tokens", 96), ("compute_ms", 10 + 0.3 * 96)):
                object.__setattr__(probe.verdict, name, value)
            session.learn(probe)
        return session.plan(100, 10, 0).draft.max_tokens

    assert longest(True) <= 2
    if drafting in ("static", "adasd", "adaedl", "confidence", "confidence-dynamic"):
        assert longest(False) == 8
