"""Which acceptance methods fit a mode and sampling; a refusal lists those that fit."""

import pytest

from adasd.config import SpeculationConfig
from adasd.control.controller import Controller
from adasd.control.options import EffectiveSpeculation
from adasd.errors import ConfigError, InvalidRequest
from adasd.methods.registry import EXACT_TESTS, acceptance_methods
from adasd.requests import Mode, SpeculationOptions
from adasd.rounds import BLOCK, SamplingTransform
from tests.unit.methods.rounds import a_round

SAMPLED, GREEDY, SEEDED = SamplingTransform(), SamplingTransform(temperature=0.0), SamplingTransform(seed=7)


def chosen(
    options: SpeculationOptions, transform: SamplingTransform = SAMPLED, **config: object
) -> EffectiveSpeculation:
    return Controller(SpeculationConfig(**config)).effective(options, transform)  # type: ignore[arg-type]


def asks(mode: Mode, acceptance: str | None) -> SpeculationOptions:
    return SpeculationOptions(mode, drafting="static", acceptance=acceptance)


def test_block_verification_is_asked_for_by_name_or_by_the_deployment():
    assert chosen(asks(Mode.EXACT, "block")).whole_block
    assert chosen(asks(Mode.EXACT, None), verification="block").whole_block
    assert not chosen(asks(Mode.EXACT, "token"), verification="block").whole_block
    assert not chosen(asks(Mode.EXACT, None)).whole_block
    controller = Controller(SpeculationConfig())
    effective = controller.effective(asks(Mode.EXACT, "block"), SAMPLED)
    rule = controller.session(effective, SAMPLED).plan(50, 0, 0).accept
    assert (rule.name, rule.is_exact) == (BLOCK, True)


@pytest.mark.parametrize("transform", [GREEDY, SEEDED])
def test_whole_blocks_are_refused_where_tokens_are_matched_or_give_way(transform):
    with pytest.raises(InvalidRequest, match="rejection sampling"):
        chosen(asks(Mode.EXACT, "block"), transform)
    effective = chosen(asks(Mode.EXACT, None), transform, verification="block")
    assert (effective.mode, effective.acceptance) == (Mode.EXACT, None)


def test_names_of_the_other_mode_are_refused_with_what_is_possible():
    with pytest.raises(InvalidRequest, match="knows token, block"):
        chosen(asks(Mode.EXACT, "collision"))
    with pytest.raises(InvalidRequest, match="collision"):
        chosen(asks(Mode.ADAPTIVE, "block"))
    with pytest.raises(InvalidRequest, match="'off'"):
        chosen(asks(Mode.OFF, "block"))
    with pytest.raises(ConfigError, match="blok"):
        Controller(SpeculationConfig(verification="blok"))


@pytest.mark.parametrize("name", ["collision", "typical", "fsd", "fly", "regret"])
def test_every_relaxed_rule_keeps_both_budgets(name):
    controller = Controller(SpeculationConfig())
    options = SpeculationOptions(Mode.ADAPTIVE, "static", name, max_distortion=1.0)
    session = controller.session(controller.effective(options, SAMPLED), SAMPLED)
    done = a_round(2, 3)
    object.__setattr__(done.verdict, "distortion", 0.75)
    assert session.plan(50, 10, 0).accept.max_distortion == 1.0
    session.learn(done)
    assert session.plan(50, 12, 0).accept.max_distortion == 0.25
    session.learn(done)
    assert session.plan(50, 14, 0).accept.max_distortion == 0.0
    assert session.distortion == 1.5
    assert session.plan(50, 14, 99).accept.relax_budget == 0


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_a_distortion_out_of_range_is_refused(value):
    with pytest.raises(InvalidRequest, match="max_distortion"):
        chosen(SpeculationOptions(Mode.ADAPTIVE, max_distortion=value))


def test_exact_tests_are_named():
    assert {"token", "block"} == {test.name for test in EXACT_TESTS}
    assert all(method.name not in ("token", "block") for method in acceptance_methods())
