"""Options, budgets, sharing between requests, and the guarantee of a seed."""

import math
from dataclasses import replace

import numpy as np
import pytest

from adasd.config import SpeculationConfig
from adasd.control.controller import MAX_METHODS, Circumstance, Controller, EffectiveSpeculation, Plan
from adasd.control.draft_sources import AUTO
from adasd.errors import ConfigError, InvalidRequest
from adasd.methods.policy import Stateless
from adasd.methods.registry import (
    acceptance_method,
    acceptance_methods,
    drafting_method,
    drafting_methods,
    spelled,
)
from adasd.requests import Mode, SpeculationOptions
from adasd.rounds import (
    AcceptanceRule,
    DraftBlock,
    RoundCompleted,
    SamplingTransform,
    StopRule,
    Verdict,
)
from tests.unit.methods.rounds import a_round, judged

GREEDY, SAMPLED, SEEDED = SamplingTransform(temperature=0.0), SamplingTransform(), SamplingTransform(seed=1)
PUBLISHED = SpeculationConfig(
    drafting="adasd", acceptance="posterior"
)  # a rule that learns, unlike the default


def begun(controller=None, transform=GREEDY, **options):
    controller = controller or Controller(PUBLISHED)
    return controller.session(controller.effective(SpeculationOptions(**options)), transform)


def taught(mode=Mode.ADAPTIVE, transform=GREEDY):
    """A controller with a warm posterior for ``transform`` and T_G = 1 nat in ``mode``."""
    controller = Controller(PUBLISHED)
    session = begun(controller, transform, mode=mode)
    rng = np.random.default_rng(0)
    for accepted, rejected in zip(rng.beta(2, 8, 64), rng.beta(5, 5, 64), strict=True):
        session.learn(a_round(1, 2, [0.1, 1.0], [accepted, rejected], [True, False]))
    return controller


# --------------------------------------------------------------------------- registry


def test_every_method_is_found_by_its_name_and_describes_itself():
    for methods, find in ((drafting_methods(), drafting_method), (acceptance_methods(), acceptance_method)):
        assert len({method.name for method in methods}) == len(methods)
        for method in methods:
            assert find(method.name) == method
            assert spelled(method) == method.name
            assert method.summary
            assert "\n" not in method.summary
            assert method.source


def test_every_drafting_method_plans_and_learns():
    for method in drafting_methods():
        session = begun(drafting=method.name)
        for _ in range(3):
            plan = session.plan(50, 10, 0)
            assert 1 <= plan.draft.max_tokens <= 16
            session.learn(a_round(1, 3, [0.1, 0.5, 0.2], draft_compute_ms=3.0, draft_ms=4.0, verify_ms=20.0))


@pytest.mark.parametrize(
    ("kind", "name", "near"),
    [
        ("drafting", "adaSD", "adasd"),
        ("drafting", "statc", "static"),
        ("acceptance", "colision", "collision"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_known_one(kind, name, near):
    controller = Controller(SpeculationConfig(mode=Mode.ADAPTIVE))
    with pytest.raises(InvalidRequest) as caught:
        controller.effective(SpeculationOptions(**{kind: name}))
    assert caught.value.param == f"speculation.{kind}"
    assert f"did you mean {near!r}" in str(caught.value)
    known = [one.name for one in (drafting_methods() if kind == "drafting" else acceptance_methods())]
    assert all(name in str(caught.value) for name in known)


# --------------------------------------------------------------------------- options


def test_drafting_that_does_not_pay_is_bypassed_unless_the_request_names_a_policy():
    for drafting, bypassed in ((None, True), ("static", False)):
        controller = Controller(PUBLISHED)
        effective = controller.effective(SpeculationOptions(drafting=drafting))
        session = controller.session(effective, SamplingTransform(temperature=0.0))
        session.learn(RoundCompleted(None, Verdict("s", 1, 0, 0, 1), 0.0, 5.0))
        for _ in range(12):
            drafted = DraftBlock("s", 1, 0, (1, 2), (0.5, 0.5), compute_ms=20.0)
            session.learn(RoundCompleted(drafted, Verdict("s", 1, 0, 0, 3, (), (False,)), 20.0, 5.0))
        assert (session.plan(50, 10, 0).draft.max_tokens == 0) is bypassed
        later = controller.session(
            effective, SamplingTransform(temperature=0.0)
        )  # the next request starts from what this one learned
        assert (later.plan(50, 0, 0).draft.max_tokens == 0) is bypassed


def test_defaults_come_from_the_deployment():
    controller = Controller(PUBLISHED)
    assert controller.effective(SpeculationOptions()) == EffectiveSpeculation(
        Mode.EXACT, "adasd", None, 16, 0.0, may_bypass=True, draft="model", max_distortion=0.0
    )
    assert controller.effective(SpeculationOptions(mode=Mode.ADAPTIVE)) == EffectiveSpeculation(
        Mode.ADAPTIVE, "adasd", "adasd", 16, 0.3, may_bypass=True, draft="model"
    )


def test_static_means_five_tokens_unless_the_request_says_otherwise():
    controller = Controller(PUBLISHED)
    assert controller.effective(SpeculationOptions(drafting="static")).max_draft_tokens == 5
    asked = SpeculationOptions(drafting="static", max_draft_tokens=9)
    assert begun(controller, drafting="static", max_draft_tokens=9).plan(50, 0, 0).draft.max_tokens == 9
    assert controller.effective(asked).max_draft_tokens == 9


@pytest.mark.parametrize(
    ("options", "param", "words"),
    [
        ({"max_draft_tokens": 17}, "max_draft_tokens", ("17", "16")),
        ({"max_draft_tokens": 0}, "max_draft_tokens", ("0", "16")),
        ({"max_relaxed_fraction": 1.5}, "max_relaxed_fraction", ("1.5",)),
        ({"max_relaxed_fraction": math.nan}, "max_relaxed_fraction", ("nan",)),
        ({"acceptance": "posterior"}, "acceptance", ("adaptive", "exact")),
        ({"mode": Mode.OFF, "acceptance": "threshold"}, "acceptance", ("adaptive", "off")),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(options, param, words):
    with pytest.raises(InvalidRequest) as caught:
        Controller(PUBLISHED).effective(SpeculationOptions(**options))
    assert caught.value.param == f"speculation.{param}"
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    "config",
    [
        SpeculationConfig(drafting="nonsense"),
        SpeculationConfig(acceptance="nonsense"),
        SpeculationConfig(max_draft_tokens=0),
        SpeculationConfig(draft_top_k=0),
        SpeculationConfig(max_relaxed_fraction=-0.1),
    ],
)
def test_settings_that_serve_nobody_are_refused_at_start(config):
    with pytest.raises(ConfigError):
        Controller(config)


def test_without_a_draft_everything_is_plain_and_asking_for_more_is_refused():
    controller = Controller(PUBLISHED, tiers=())
    assert controller.effective(SpeculationOptions()).mode is Mode.OFF
    asked = controller.effective(SpeculationOptions(mode=Mode.EXACT))
    assert (asked.mode, asked.draft) == (Mode.EXACT, "suffix")
    with pytest.raises(InvalidRequest, match="no draft source 'model'; it offers: ngram, suffix, auto"):
        controller.effective(SpeculationOptions(draft="model"))


# --------------------------------------------------------------------------- plans


def test_mode_off_is_plain():
    session = begun(mode=Mode.OFF)
    assert session.plan(100, 0, 0).draft == StopRule(0)
    assert session.plan(100, 0, 0).accept == AcceptanceRule()
    assert (session.generation_threshold, session.acceptance_threshold) == (None, None)


@pytest.mark.parametrize(("remaining", "drafted"), [(1, 0), (2, 1), (6, 5), (17, 16), (100, 16)])
def test_the_targets_own_token_always_fits(remaining, drafted):
    assert begun(drafting="adasd").plan(remaining, 10, 0).draft.max_tokens == drafted


@pytest.mark.parametrize(
    ("mode", "transform", "row_len"),
    [
        (Mode.EXACT, GREEDY, 0),  # greedy match needs no probabilities
        (Mode.EXACT, SEEDED, 0),  # shared noise needs none
        (Mode.EXACT, SAMPLED, 128),  # rejection sampling does
        (Mode.ADAPTIVE, GREEDY, 128),  # so do distances
        (Mode.ADAPTIVE, SEEDED, 128),
    ],
)
def test_rows_travel_where_a_rule_needs_them(mode, transform, row_len):
    plan = begun(transform=transform, mode=mode).plan(100, 0, 0)
    assert plan.draft.row_len == row_len
    assert plan.accept.want_distances is (mode is Mode.ADAPTIVE)


@pytest.mark.parametrize(
    ("fraction", "num_emitted", "num_relaxed", "budget"),
    [
        (0.3, 1, 0, 0),  # one of two would be half
        (0.3, 7, 0, 3),  # three of ten
        (0.3, 100, 20, 14),  # 34 of 114
        (0.3, 100, 0, 16),  # not beyond the block
        (0.3, 100, 40, 0),
        (0.0, 500, 0, 0),
        (1.0, 10, 3, 16),
    ],
)
def test_budget_is_a_share_of_the_answer(fraction, num_emitted, num_relaxed, budget):
    session = begun(taught(), mode=Mode.ADAPTIVE, max_relaxed_fraction=fraction)
    accept = session.plan(500, num_emitted, num_relaxed).accept
    assert accept.name == "adasd"
    assert accept.relax_budget == budget


def test_adaptive_is_exact_until_it_is_warm():
    session = begun(mode=Mode.ADAPTIVE)
    assert session.plan(100, 0, 0).accept == AcceptanceRule(want_distances=True)
    assert session.acceptance_threshold is None


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ({"drafting": "on-the-fly:variant=fsm"}, "on-the-fly:variant=fsm"),
        ({"drafting": "on-the-fly-fsm"}, "on-the-fly:variant=fsm"),
        ({"drafting": "on-the-fly:initial=5"}, "on-the-fly"),
        ({"drafting": "heuristic"}, "assisted"),
        ({"acceptance": "posterior"}, "adasd"),
        ({"acceptance": "threshold:min_ratio=0.5"}, "adasd-v1:min_ratio=0.5"),
        ({"acceptance": "typical:delta=0.2:epsilon=0.1"}, "typical:epsilon=0.1:delta=0.2"),
    ],
)
def test_methods_are_chosen_with_parameters_and_by_earlier_names(asked, made):
    """Chosen by a request or by the deployment, and echoed in one spelling."""
    (kind,) = asked
    by_request = Controller(PUBLISHED).effective(SpeculationOptions(Mode.ADAPTIVE, **asked))
    by_config = Controller(SpeculationConfig(**asked)).effective(SpeculationOptions(Mode.ADAPTIVE))
    assert getattr(by_request, kind) == getattr(by_config, kind) == made


@pytest.mark.parametrize(
    ("drafting", "words"),
    [
        ("adaedl:gama=0.3", "no parameter 'gama'; it takes gamma, initial"),
        ("adaedl:gamma=much", "no float"),
        ("adaedl:gamma=-1", "within 0.001 to 100"),
        ("on-the-fly:variant=slow", "goodput, fsm, cached"),
        ("adasd:drops_last=yes", "false, true"),
        ("static:length=5", "takes none"),
    ],
)
def test_parameters_that_a_method_lacks_are_refused(drafting, words):
    with pytest.raises(InvalidRequest, match=words) as caught:
        Controller(PUBLISHED).effective(SpeculationOptions(drafting=drafting))
    assert caught.value.param == "speculation.drafting"


def test_exact_mode_never_relaxes_whatever_was_learned():
    assert begun(taught(), mode=Mode.EXACT).plan(100, 0, 0).accept == AcceptanceRule()


# --------------------------------------------------------------------------- learning and sharing


def test_thresholds_are_reported_as_they_are_in_force():
    session = begun(mode=Mode.EXACT)
    assert session.generation_threshold is None
    session.learn(a_round(0, 1, [1.25]))
    assert session.generation_threshold == pytest.approx(1.25)
    assert session.plan(100, 1, 0).draft.entropy_ceiling == pytest.approx(1.25)
    relaxed = begun(taught(), mode=Mode.ADAPTIVE)
    table = relaxed.plan(100, 0, 0).accept.params["chances"]
    assert relaxed.acceptance_threshold == pytest.approx(sum(table) / 256)
    assert 0.2 < relaxed.acceptance_threshold < 0.6  # the classes' densities cross near .4


def test_threshold_policies_report_their_threshold():
    controller = Controller(SpeculationConfig(acceptance="threshold"))
    session = begun(controller, mode=Mode.ADAPTIVE)
    for _ in range(32):
        session.learn(judged([0.1], 0.5))
        session.learn(judged([0.3], 0.7))
    assert session.acceptance_threshold is None
    late = begun(controller, mode=Mode.ADAPTIVE)
    assert late.acceptance_threshold == pytest.approx(0.4, abs=1 / 256)
    assert late.plan(100, 0, 0).accept.params["max_distance"] == late.acceptance_threshold


def test_what_relaxation_and_temperature_change_is_learned_apart():
    controller = Controller(PUBLISHED)
    relaxed = begun(controller, mode=Mode.ADAPTIVE)
    for _ in range(40):
        relaxed.learn(a_round(3, 3, [0.1, 0.1, 0.1], draft_compute_ms=3.0, verify_ms=5.0))
    full = Circumstance("model", Mode.ADAPTIVE, 0.0)
    assert controller.shared(full).estimates.survival.curve(1)[0] > 0.9
    for other in (full._replace(mode=Mode.EXACT), full._replace(temperature=1.0)):
        known = controller.shared(other).estimates
        assert known.survival.curve(1)[0] == pytest.approx(0.7)
        assert (
            known.verify_ms.fit() == controller.shared(full).estimates.verify_ms.fit()
        )  # times are the same


def test_of_methods_that_requests_make_up_only_some_are_remembered():
    controller = Controller(PUBLISHED)
    for n in range(MAX_METHODS + 8):
        begun(controller, drafting=f"adaedl:gamma={1 + n}").learn(a_round(0, 1, [1.0]))
    states = controller.shared(Circumstance("model", Mode.EXACT, 0.0)).states
    assert len(states) == MAX_METHODS
    assert drafting_method(f"adaedl:gamma={MAX_METHODS + 8}") in states


def test_a_new_request_starts_from_what_others_learned_and_running_ones_keep_their_rule():
    controller = Controller(PUBLISHED)
    running = begun(controller, mode=Mode.ADAPTIVE)
    for accepted, rejected in zip(np.linspace(0.05, 0.3, 64), np.linspace(0.4, 0.9, 64), strict=True):
        running.learn(a_round(1, 2, [0.1, 1.0], [accepted, rejected], [True, False]))
    assert running.acceptance_threshold is None
    assert begun(controller, mode=Mode.ADAPTIVE).acceptance_threshold is not None
    assert begun(controller, mode=Mode.ADAPTIVE).generation_threshold == pytest.approx(1.0)


def test_states_that_mean_something_else_are_not_shared():
    controller = taught(Mode.ADAPTIVE, GREEDY)
    assert begun(controller, SAMPLED, mode=Mode.ADAPTIVE).acceptance_threshold is None
    sampled = taught(Mode.ADAPTIVE, SamplingTransform(temperature=0.7))
    assert begun(sampled, SAMPLED, mode=Mode.ADAPTIVE).acceptance_threshold is not None
    assert begun(sampled, SamplingTransform(temperature=0.3), mode=Mode.ADAPTIVE).acceptance_threshold is None
    assert begun(controller, mode=Mode.EXACT).generation_threshold is None
    assert begun(controller, mode=Mode.ADAPTIVE, drafting="static").generation_threshold is None


KEPT_APART = [
    *((Mode.EXACT, {"drafting": one.name}, one) for one in drafting_methods()),
    *((Mode.ADAPTIVE, {"drafting": one.name}, one) for one in drafting_methods()),
    *((Mode.ADAPTIVE, {"acceptance": one.name}, one) for one in acceptance_methods()),
]


@pytest.mark.parametrize(("mode", "options", "method"), KEPT_APART, ids=str)
def test_every_method_learns_by_mode_and_temperature(mode, options, method):
    """What one circumstance learned changes no other one's state; its own state changes, if it has one."""
    controller = Controller(SpeculationConfig())
    session = begun(controller, SamplingTransform(temperature=0.7), mode=mode, **options)
    for _ in range(80):
        session.learn(a_round(1, 3, [0.1, 1.0, 2.0], [0.1, 0.6], [True, False], 3.0, 3.0, 5.0))
        session.learn(a_round(2, 2, [0.1, 0.3], [0.1, 0.2], [True, True], 2.0, 2.0, 5.0))
    own = Circumstance("model", mode, 1.0)
    nothing = repr(method.start(None))
    learns_nothing = isinstance(method, Stateless) or method.name == "confidence"  # its floor is constant
    assert (repr(controller.shared(own).state(method)) == nothing) == learns_nothing
    other_mode = Mode.EXACT if mode is Mode.ADAPTIVE else Mode.ADAPTIVE
    for other in (
        own._replace(temperature=0.0),
        own._replace(temperature=1.5),
        own._replace(mode=other_mode),
    ):
        assert repr(controller.shared(other).state(method)) == nothing


def test_sources_are_rated_by_mode_and_temperature():
    controller = Controller(SpeculationConfig(draft=AUTO))
    tasks = {
        begun(controller, transform, mode=mode)._task
        for transform in (GREEDY, SamplingTransform(temperature=0.7), SamplingTransform(temperature=1.2))
        for mode in (Mode.EXACT, Mode.ADAPTIVE)
    }
    assert len(tasks) == 6


@pytest.mark.parametrize("transform", [SEEDED, SamplingTransform(temperature=0.0, seed=5)])
def test_a_seeded_adaptive_request_depends_on_itself_alone(transform):
    """The same rounds lead to the same plans, no matter what the process learns before or at the same time."""
    rng = np.random.default_rng(2)
    rounds = [
        a_round(1, 2, [0.1, float(h)], [float(a), float(r)], [True, False])
        for h, a, r in zip(rng.exponential(1, 80), rng.beta(2, 8, 80), rng.beta(5, 5, 80), strict=True)
    ]

    def plans(controller):
        session, seen = begun(controller, transform, mode=Mode.ADAPTIVE), []
        for i, done in enumerate(rounds):
            seen.append(session.plan(500, 2 * i, 0))
            session.learn(done)
            begun(controller, mode=Mode.ADAPTIVE).learn(a_round(0, 1, [9.0], [0.9], [False]))
        return seen

    fresh = plans(Controller(PUBLISHED))
    assert plans(taught()) == fresh
    assert fresh[0].accept.is_exact
    assert not fresh[-1].accept.is_exact  # it learns from its own verdicts


def test_methods_with_parameters_learn_apart_from_those_without():
    controller = Controller(PUBLISHED)
    for name in ("adasd:min_ratio=0.25", "adasd"):
        session = begun(controller, mode=Mode.ADAPTIVE, acceptance=name)
        assert session.plan(100, 0, 0).accept.is_exact
        rng = np.random.default_rng(0)
        for accepted, rejected in zip(rng.beta(2, 8, 64), rng.beta(5, 5, 64), strict=True):
            session.learn(a_round(1, 2, [0.1, 1.0], [accepted, rejected], [True, False]))
        rule = begun(controller, mode=Mode.ADAPTIVE, acceptance=name).plan(100, 0, 0).accept
        assert (rule.name, rule.params["min_ratio"]) == ("adasd", 0.25 if ":" in name else 0.0)


def test_a_seeded_exact_request_takes_what_the_process_knows():
    controller = taught(Mode.EXACT, transform=SAMPLED)
    assert begun(controller, SEEDED, mode=Mode.EXACT).generation_threshold == pytest.approx(1.0)


def test_labels_under_shared_noise_do_not_reach_unseeded_requests():
    assert begun(taught(transform=SEEDED), SAMPLED, mode=Mode.ADAPTIVE).acceptance_threshold is None
    assert begun(taught(transform=SAMPLED), SAMPLED, mode=Mode.ADAPTIVE).acceptance_threshold is not None


def test_plain_rounds_and_lost_drafts_are_harmless():
    session = begun(mode=Mode.ADAPTIVE, drafting="adasd")
    session.learn(a_round(0, 0, verify_ms=20.0))
    assert session.plan(100, 1, 0).draft.max_tokens == 16


# --------------------------------------------------------------------------- load


def running(controller, num, **options):
    sessions = [begun(controller, **options) for _ in range(num)]
    for session in sessions:
        session.prompt_was_read()
    return sessions


def test_under_load_all_requests_of_a_circumstance_change_together_and_new_ones_follow():
    controller = Controller(PUBLISHED)
    sessions = running(controller, 8)
    kinds = []
    for turn in range(3000):
        plans = [session.plan(500, 10, 0).draft.max_tokens > 0 for session in sessions]
        assert len(set(plans)) == 1
        kinds.append(plans[0])
        for session in sessions:  # blocks bring two tokens in the time of three
            if plans[0]:
                session.learn(a_round(1, 2, [0.1, 1.0], draft_compute_ms=10.0, draft_ms=10.0, verify_ms=20.0))
            else:
                session.learn(a_round(0, 0, verify_ms=10.0))
            if turn % 50 == 49:
                session.end()
        if turn % 50 == 49:
            sessions = running(controller, 8)
    assert not any(kinds[:150])  # nothing is known yet
    assert 0 < sum(kinds) < 0.1 * len(kinds)
    assert sum(kinds[1500:]) < 0.1 * len(kinds[1500:])
    assert not begun(controller).plan(500, 10, 0).draft.max_tokens


def test_a_request_that_names_its_method_drafts_under_load_as_well():
    sessions = running(Controller(PUBLISHED), 8, drafting="static")
    for _ in range(200):
        for session in sessions:
            session.learn(a_round(0, 2, [0.1, 1.0], draft_compute_ms=50.0, draft_ms=50.0, verify_ms=50.0))
    assert all(session.plan(500, 10, 0).draft.max_tokens == 5 for session in sessions)


@pytest.mark.parametrize(("num", "drafts"), [(2, True), (7, True), (8, False), (40, False)])
def test_before_a_trial_a_few_requests_draft_and_many_do_not(num, drafts):
    sessions = running(Controller(PUBLISHED), num)
    assert {session.plan(500, 10, 0).draft.max_tokens > 0 for session in sessions} == {drafts}


def test_a_few_requests_begin_as_one_alone_goes_on():
    controller = Controller(PUBLISHED)
    alone = begun(controller)
    alone.learn(a_round(0, 0, verify_ms=10.0))
    for _ in range(20):
        alone.learn(a_round(0, 4, [0.1] * 4, draft_compute_ms=8.0, draft_ms=8.0, verify_ms=12.0))
    assert not any(session.plan(500, 10, 0).draft.max_tokens for session in running(controller, 3))


def test_many_requests_draft_once_a_trial_has_shown_that_it_pays():
    controller = Controller(PUBLISHED)
    sessions, kinds = running(controller, 8), []
    for _ in range(3000):  # blocks bring two tokens in the time of one and a half
        drafts = sessions[0].plan(500, 10, 0).draft.max_tokens > 0
        kinds.append(drafts)
        for session in sessions:
            done = a_round(1, 2, [0.1, 1.0], draft_compute_ms=5.0, draft_ms=5.0, verify_ms=10.0)
            session.learn(done if drafts else a_round(0, 0, verify_ms=10.0))
    assert not any(kinds[:150])
    assert all(kinds[300:450])
    assert sum(kinds[600:]) > 0.9 * len(kinds[600:])


def test_requests_that_read_their_prompts_count_as_open():
    controller = Controller(PUBLISHED)
    reading = [begun(controller) for _ in range(8)]
    for session in reading:
        session.slot_granted()
    assert (controller.num_open, controller.num_running, controller.load) == (8, 0, 2)
    assert not reading[0].plan(500, 10, 0).draft.max_tokens
    for session in reading:
        session.end()
    assert controller.num_open == 0


def test_the_number_of_running_requests_counts_each_once():
    controller = Controller(PUBLISHED)
    one, other = running(controller, 2)
    one.prompt_was_read()
    assert (controller.num_running, controller.load) == (2, 1)
    one.end()
    one.end()
    assert (controller.num_running, controller.load) == (1, 0)
    other.end()
    assert controller.num_running == 0


def test_under_load_a_hopeless_draft_is_dropped_by_each_request_before_slices_tell():
    sessions = running(Controller(PUBLISHED), 7)
    for session in sessions:
        session.learn(a_round(0, 0, verify_ms=10.0))
    for _ in range(5):
        for session in sessions:
            session.learn(a_round(0, 4, [0.1] * 4, draft_compute_ms=8.0, draft_ms=8.0, verify_ms=12.0))
    assert not any(session.plan(500, 10, 0).draft.max_tokens for session in sessions)


def test_plain_rounds_keep_the_exact_rule_of_blocks_that_come_late():
    session = begun(mode=Mode.EXACT, acceptance="block", transform=SAMPLED)
    assert session.plan(100, 0, 0).accept == AcceptanceRule("block")
    assert session.plan(1, 99, 0) == Plan(StopRule(0), AcceptanceRule("block"))


@pytest.mark.parametrize("transform", [GREEDY, SEEDED])
def test_a_relaxed_token_behind_the_end_of_the_answer_costs_nothing(transform):
    session = begun(mode=Mode.ADAPTIVE, acceptance="typical", transform=transform)
    session.learn(a_round(1, 1, [0.1]))
    before = session.distortion
    done = a_round(3, 3, [0.1, 0.2, 0.3])
    verdict = replace(done.verdict, relaxed=(True, False, True), distortion=2.0)
    session.learn(replace(done, verdict=verdict, num_emitted=2))
    assert session.distortion - before == 1.0
