"""A drafting method and an acceptance method of another package, served by worker processes over gRPC.

The package is on the path as pip would put it there (a module and its entry points); no other code names it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from adasd.config import EngineConfig, SpeculationConfig
from adasd.control.controller import Controller
from adasd.errors import InvalidRequest
from adasd.methods import registry
from adasd.requests import Mode, SpeculationOptions
from adasd.rounds import DraftCall, OpenCall, RoundCompleted, SamplingTransform, VerifyCall
from adasd.testing.fake_engine import FakeEngine
from adasd.testing.table_model import TableModel
from load_tests.latency.round_trip import worker
from services.config import TierConfig
from services.transport.link_pool import LinkPool
from services.transport.rounds_client import RoundsLine
from services.worker.worker import _load
from tests.pairs import tokenizer, write_model

MODULE = '''
from dataclasses import dataclass
from typing import ClassVar

from adasd.config import setting
from adasd.methods.policy import AcceptanceMethod, Bounds, DraftingMethod, Stateless
from adasd.methods.registry import register_acceptance, register_drafting
from adasd.rounds import StopRule


@register_drafting
@dataclass(frozen=True, slots=True)
class InTurn(DraftingMethod[int]):
    """Blocks of two lengths in turn."""

    long: int = setting(3, "tokens of every second block", low=1)
    name: ClassVar[str] = "in-turn"
    summary: ClassVar[str] = "one token, then some more"
    source: ClassVar[str] = "this test"

    def start(self, shared):
        return 0

    def decide(self, state, outlook):
        return StopRule(min(outlook.max_draft_tokens, self.long if state % 2 else 1))

    def learn(self, state, round):
        return state + 1


@register_acceptance
@dataclass(frozen=True, slots=True)
class Multiples(Stateless, AcceptanceMethod[None]):
    """Tokens that a number divides are accepted."""

    divisor: int = setting(2, "of accepted token ids", low=1)
    name: ClassVar[str] = "multiples"
    summary: ClassVar[str] = "accepts multiples of a number"
    source: ClassVar[str] = "this test"
    rule_params: ClassVar = {"divisor": Bounds(1, 1000)}

    def decide(self, state, outlook):
        return {"divisor": float(self.divisor)}

    @staticmethod
    def chance(at, ids_GKN):
        return (ids_GKN % at.number("divisor") == 0).float()

    @staticmethod
    def reference_chance(block, i, token):
        return float(token % block.number("divisor") == 0)
'''
NUM_ROUNDS = 12


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts the package on the path of this process and its children, for one test."""
    (tmp_path / "added_methods.py").write_text(MODULE)
    facts = tmp_path / "added_methods-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: added-methods\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[adasd.methods]\nadded = added_methods\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.load()
    for known in ("_drafting", "_acceptance"):
        monkeypatch.setattr(registry, known, dict(getattr(registry, known)))
    registry.load.cache_clear()
    yield
    sys.modules.pop("added_methods", None)
    for cached in (registry.drafting_method, registry.acceptance_method):
        cached.cache_clear()


@pytest.mark.parametrize("is_real", [False, True], ids=["slow twin", "tensors"])
@pytest.mark.timeout(300)
async def test_methods_of_another_package_are_served_by_two_workers(installed, is_real, tmp_path):
    model = TableModel.random(16, seed=3)
    make_target = partial(FakeEngine, model)
    if is_real:
        tokens = tokenizer()
        model = TableModel.random(len(tokens), seed=3)
        folder = write_model(tmp_path / "target", tokens, seed=1)
        config = EngineConfig(str(folder), compile="off", num_slots=1)
        make_target = partial(_load, "target", TierConfig(config), None, None)
    controller = Controller(SpeculationConfig(bypass=False))
    options = SpeculationOptions(
        Mode.ADAPTIVE, "in-turn:long=4", "multiples:divisor=3", max_relaxed_fraction=1.0
    )
    transform = SamplingTransform(temperature=0.0)
    effective = controller.effective(options, transform)
    assert (effective.drafting, effective.acceptance) == ("in-turn:long=4", "multiples:divisor=3")
    session, opening = controller.session(effective, transform), OpenCall("s", transform, 128)
    text, lengths, relaxed = [1, 2, 3], [], []
    pool = LinkPool()
    with (
        worker("draft", ["s"], partial(FakeEngine, model.disturbed(4.0))) as draft_at,
        worker("target", ["s"], make_target) as target_at,
    ):
        draft, target = (RoundsLine(pool, at, "s", timeout_s=30.0) for at in (draft_at, target_at))
        for line in (draft, target):
            await line.open(opening)
        for epoch in range(NUM_ROUNDS):
            plan = session.plan(100, len(text) - 3, len(relaxed))
            drafted = await draft.draft(DraftCall("s", epoch, 0, tuple(text), plan.draft))
            asked = VerifyCall("s", epoch, 0, tuple(text), drafted.tokens, drafted.distributions, plan.accept)
            verdict = await target.verify(asked)
            lengths.append(len(drafted.tokens))
            accepted = drafted.tokens[: verdict.num_accepted]
            relaxed += [token for token, by_rule in zip(accepted, verdict.relaxed, strict=True) if by_rule]
            refused = drafted.tokens[verdict.num_accepted : verdict.num_accepted + 1]
            assert all(token % 3 for token in refused)
            text += [*accepted, verdict.next_token]
            session.learn(RoundCompleted(drafted, verdict))
        for line in (draft, target):
            await line.close()
    await pool.close()
    assert lengths == [1, 4] * (NUM_ROUNDS // 2)
    assert relaxed
    assert not any(token % 3 for token in relaxed)


async def test_a_worker_without_the_package_says_what_it_knows(installed):
    controller = Controller(SpeculationConfig(bypass=False))
    transform = SamplingTransform(temperature=0.0)
    effective = controller.effective(SpeculationOptions(Mode.ADAPTIVE, "static", "multiples"), transform)
    rule = controller.session(effective, transform).plan(100, 0, 0).accept
    pool = LinkPool()
    sys.path.pop(0)  # processes started from here on have no such package
    with worker("target", ["s"], partial(FakeEngine, TableModel.random(16, seed=3))) as target_at:
        target = RoundsLine(pool, target_at, "s", timeout_s=30.0)
        await target.open(OpenCall("s", transform, 128))
        with pytest.raises(InvalidRequest, match=r"no acceptance method 'multiples'.*known: adasd, adasd-v1"):
            await target.verify(VerifyCall("s", 1, 0, (1, 2, 3), (4,), rule=rule))
        await target.close()
    await pool.close()
