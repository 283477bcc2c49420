"""Which acceptance goes with which mode and sampling; what does not is refused with what does."""

import pytest

from adasd.config import SpeculationConfig
from adasd.control.controller import Controller
from adasd.control.options import EffectiveSpeculation
from adasd.errors import ConfigError, InvalidRequest
from adasd.methods.registry import ACCEPTANCE, EXACT_RULES
from adasd.requests import Mode, SpeculationOptions
from adasd.rounds import RelaxDivergence, RelaxTolerance, SamplingTransform
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
    assert (rule.whole_block, rule.relax) == (True, None)


@pytest.mark.parametrize("transform", [GREEDY, SEEDED])
@pytest.mark.parametrize(
    ("mode", "name"), [(Mode.EXACT, "block"), (Mode.ADAPTIVE, "ears"), (Mode.ADAPTIVE, "mentored")]
)
def test_what_acts_on_rejection_sampling_is_refused_elsewhere_or_gives_way(transform, mode, name):
    with pytest.raises(InvalidRequest, match="rejection sampling"):
        chosen(asks(mode, name), transform)
    defaults = {"verification": name} if mode is Mode.EXACT else {"acceptance": name, "mode": mode}
    effective = chosen(asks(mode, None), transform, **defaults)
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


@pytest.mark.parametrize("policy", ACCEPTANCE, ids=lambda policy: policy.name)
def test_every_relaxed_rule_keeps_both_budgets(policy):
    controller = Controller(SpeculationConfig())
    options = SpeculationOptions(Mode.ADAPTIVE, "static", policy.name, max_distortion=1.0)
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


def test_the_sampling_rules_compile_to_their_published_constants():
    made = {policy.name: policy for policy in ACCEPTANCE}
    assert made["ears"].decide(None, None) == RelaxTolerance(0.3)
    assert made["mentored"].decide(None, None) == RelaxDivergence(0.1)
    assert made["fsd"].decide(None, None).max_distance == pytest.approx(0.442, abs=0.001)
    assert {"token", "block"} == {rule.name for rule in EXACT_RULES}
