"""Acceptance policies: densities against SciPy, the posterior by symmetry, warm-up and its traps."""

import numpy as np
import pytest
from scipy.stats import gaussian_kde

from adasd.methods.acceptance.adasd import (
    Decision,
    Monotone,
    Posterior,
    PosteriorOptions,
    Priors,
    fit,
    posterior,
)
from adasd.methods.acceptance.adasd_v1 import Form, Threshold, ThresholdOptions
from adasd.methods.distance_histograms import CENTRES, DistanceHistograms, HistogramOptions, Label
from adasd.methods.isotonic import never_rising_pava, running_minimum, without_gaps
from adasd.methods.kernel_density import Bandwidth, bandwidth, density, quantile
from adasd.methods.policy import RoundOutlook
from adasd.methods.scope import AcceptanceScope
from adasd.rounds import NUM_DISTANCE_BINS, RelaxBelow, RelaxTable
from tests.unit.methods.rounds import a_round, judged

OUTLOOK = RoundOutlook(max_draft_tokens=16, remaining_tokens=100)
FOREVER = HistogramOptions(memory=float("inf"))


def evidence(accepted, rejected, options=FOREVER):
    """From distances of tokens that passed and that failed."""
    seen = DistanceHistograms().add(judged(accepted), options)
    for distance in rejected:
        seen = seen.add(judged(rejected=distance), options)
    return seen


def centres(*bins):
    return [(b + 0.5) / NUM_DISTANCE_BINS for b in bins]


def beta_distances(seed=0, num_accepted=300, num_rejected=100):
    rng = np.random.default_rng(seed)
    return rng.beta(2, 8, num_accepted), rng.beta(5, 5, num_rejected)


# --------------------------------------------------------------------------- labels


def test_labels_are_outcomes_of_the_exact_test():
    relaxed = a_round(2, 4, distances=[0.0, 0.5, 1.0], exact_ok=[True, False, False])
    seen = DistanceHistograms().add(relaxed, FOREVER)
    assert np.flatnonzero(seen.accepted).tolist() == [0]
    assert np.flatnonzero(seen.rejected).tolist() == [128, 255]  # d = 1 falls into the last bin
    by_outcome = DistanceHistograms().add(relaxed, HistogramOptions(label=Label.OUTCOME, memory=float("inf")))
    assert np.flatnonzero(by_outcome.accepted).tolist() == [0, 128]


def test_distances_that_are_no_numbers_are_left_out():
    seen = DistanceHistograms().add(
        a_round(2, 2, distances=[float("nan"), -1e-9], exact_ok=[True, True]), FOREVER
    )
    assert seen.weights.sum() == 1
    assert seen.accepted[0] == 1


def test_old_labels_fade():
    options = HistogramOptions(memory=4.0)
    seen = DistanceHistograms().add(judged([0.1]), options).add(judged([0.9]), options)
    assert seen.accepted[25] == pytest.approx(0.75)
    assert seen.accepted[230] == 1.0


def test_a_window_forgets_at_once():
    options = HistogramOptions(window=3)
    seen = evidence([0.1, 0.1, 0.1], [0.5, 0.6], options)
    assert seen.accepted.sum() == 1
    assert seen.rejected.sum() == 2
    assert seen.num_labels == 5


# --------------------------------------------------------------------------- density


def test_bandwidth_of_even_values_by_hand():
    """One value per bin: sigma = sqrt((256^2 - 1) / 12 / 256^2 * 256 / 255) = .28924, IQR = 1/2.

    Silverman: .9 * min(.28924, .5 / 1.34 = .37313) * 256^(-1/5) (= .32988) = .08587;
    normal: 1.06 * .28924 * .32988 = .10114.
    """
    even = np.ones(NUM_DISTANCE_BINS)
    assert bandwidth(even, Bandwidth.SILVERMAN) == pytest.approx(0.08587, abs=1e-5)
    assert bandwidth(even, Bandwidth.NORMAL) == pytest.approx(0.10114, abs=1e-5)


def test_bandwidth_takes_the_quartiles_where_they_are_narrower():
    """60 of 100 values one per bin from 98 on, the rest at both ends.

    Quartiles at bins 98 + 5 and 98 + 55, IQR = 50 / 256 = .19531; sigma is about .33.
    """
    weights = np.zeros(NUM_DISTANCE_BINS)
    weights[98:158] = 1
    weights[[0, 255]] = 20
    assert quantile(weights, 0.75) - quantile(weights, 0.25) == pytest.approx(50 / 256)
    # .9 * .19531 / 1.34 (= .14576) * 100^(-1/5) (= .39811)
    assert bandwidth(weights, Bandwidth.SILVERMAN) == pytest.approx(0.05222, abs=1e-5)


def test_equal_values_get_one_bin_of_bandwidth():
    weights = np.zeros(NUM_DISTANCE_BINS)
    weights[40] = 50
    assert bandwidth(weights, Bandwidth.SILVERMAN) == 1 / 256
    assert np.argmax(density(weights, 1 / 256)) == 40


def test_density_is_scipys():
    values = np.array(centres(*np.random.default_rng(3).integers(0, 256, 200)))
    weights = np.bincount((values * 256).astype(int), minlength=256).astype(float)
    for h in (0.01, 0.08):
        scipys = gaussian_kde(values, bw_method=h / values.std(ddof=1))(CENTRES)
        assert density(weights, h) == pytest.approx(scipys, rel=1e-9)


def test_binning_hardly_moves_a_density():
    """Raw values, not bin centres: binning was found to cost .0065 on a peak of 3.58."""
    accepted, _ = beta_distances(num_accepted=2000)
    weights = evidence(accepted, []).accepted
    h = bandwidth(weights, Bandwidth.SILVERMAN)
    spread = min(accepted.std(ddof=1), np.subtract(*np.percentile(accepted, [75, 25])) / 1.34)
    assert h == pytest.approx(0.9 * spread * 2000**-0.2, rel=0.01)
    scipys = gaussian_kde(accepted, bw_method=h / accepted.std(ddof=1))(CENTRES)
    assert np.abs(density(weights, h) - scipys).max() < 0.02


# --------------------------------------------------------------------------- monotone


def test_gaps_take_what_stands_behind_them():
    curve = np.array([0.0, 0.9, 0.0, 0.0, 0.4, 0.0])
    known = np.array([False, True, False, False, True, False])
    assert without_gaps(curve, known).tolist() == [0.9, 0.9, 0.4, 0.4, 0.4, 0.0]


def test_running_minimum_and_pava_by_hand():
    curve = np.array([0.9, 0.5, 0.7, 0.2, 0.4])
    assert running_minimum(curve).tolist() == [0.9, 0.5, 0.5, 0.2, 0.2]
    assert never_rising_pava(curve, np.ones(5)) == pytest.approx([0.9, 0.6, 0.6, 0.3, 0.3])
    assert never_rising_pava(curve, np.array([1, 3, 1, 1, 1])) == pytest.approx([0.9, 0.55, 0.55, 0.3, 0.3])
    rising = np.array([0.1, 0.2, 0.6])
    assert never_rising_pava(rising, np.ones(3)) == pytest.approx([0.3, 0.3, 0.3])


# --------------------------------------------------------------------------- posterior


def test_mirrored_classes_meet_in_the_middle():
    """Rejected distances are 1 - d of the accepted ones, so P(A | d) = 1/2 at d = 1/2: bins 0 .. 127."""
    accepted = centres(*range(20, 160, 2))
    table = fit(evidence(accepted, [1 - d for d in accepted]), PosteriorOptions())
    assert table.accept_prob == (1.0,) * 128 + (0.0,) * 128


@pytest.mark.parametrize("priors", Priors)
def test_posterior_is_bayes_rule_on_scipys_densities(priors):
    accepted, rejected = (np.array(centres(*(d * 256).astype(int))) for d in beta_distances())
    options = PosteriorOptions(priors=priors)
    seen = evidence(accepted, rejected)
    f_A, f_R = (
        gaussian_kde(d, bw_method=bandwidth(w, Bandwidth.SILVERMAN) / d.std(ddof=1))(CENTRES)
        for d, w in ((accepted, seen.accepted), (rejected, seen.rejected))
    )
    pi_A = 0.75 if priors is Priors.COUNTS else 0.5
    bayes = pi_A * f_A / (pi_A * f_A + (1 - pi_A) * f_R)
    body = slice(3, 200)  # behind it there is next to no density of either class
    assert posterior(seen, options)[body] == pytest.approx(np.minimum.accumulate(bayes)[body], abs=1e-6)


@pytest.mark.parametrize("monotone", Monotone)
@pytest.mark.parametrize("seed", range(5))
def test_posterior_never_rises_and_is_a_probability(monotone, seed):
    options = PosteriorOptions(monotone=monotone)
    chance = posterior(evidence(*beta_distances(seed, 40, 32)), options)
    assert (np.diff(chance) <= 1e-12).all()
    assert chance.min() >= 0
    assert chance.max() <= 1


def test_equal_priors_accept_less_when_most_tokens_pass():
    seen = evidence(*beta_distances())
    by_counts, equal = (
        sum(fit(seen, PosteriorOptions(priors=priors)).accept_prob)
        for priors in (Priors.COUNTS, Priors.EQUAL)
    )
    assert equal < by_counts


def test_stochastic_table_is_the_posterior_itself():
    seen = evidence(*beta_distances())
    options = PosteriorOptions(decision=Decision.STOCHASTIC)
    assert fit(seen, options).accept_prob == pytest.approx(posterior(seen, options).tolist())
    assert any(0.05 < chance < 0.95 for chance in fit(seen, options).accept_prob)


def test_nothing_is_accepted_where_no_token_was_ever_seen():
    table = fit(evidence(centres(*range(10, 50)), centres(*range(60, 100))), PosteriorOptions())
    assert max(table.accept_prob[150:]) == 0.0


def test_classes_the_wrong_way_round_stay_exact():
    """Passed tokens at large distances, failed ones at small: a running minimum accepts nothing."""
    far, near = centres(*range(150, 200)), centres(*range(20, 70))
    assert fit(evidence(far, near), PosteriorOptions()) is None


@pytest.mark.parametrize(
    ("accepted", "rejected"),
    [
        (centres(*range(100)), centres(*range(100, 131))),  # 31 rejected
        (centres(*range(31)), centres(*range(100, 200))),  # 31 accepted
        (centres(*range(100)), centres(*[120] * 40)),  # rejected ones all at one distance
        ([], []),
    ],
)
def test_cold_evidence_is_exact(accepted, rejected):
    assert fit(evidence(accepted, rejected), PosteriorOptions()) is None
    assert Threshold().decide(Threshold().start(None), OUTLOOK) is None


def feed(policy, state, accepted, rejected):
    for a, r in zip(accepted, rejected, strict=True):
        state = policy.learn(state, judged([a], r))
    return state


def test_posterior_warms_up_at_32_of_each_and_refreshes_every_32_labels():
    policy = Posterior(PosteriorOptions(evidence=FOREVER))
    accepted, rejected = centres(*range(20, 60)), centres(*range(100, 140))
    state = feed(policy, policy.start(None), accepted[:31], rejected[:31])
    assert policy.decide(state, OUTLOOK) is None
    state = feed(policy, state, accepted[31:32], rejected[31:32])
    first = policy.decide(state, OUTLOOK)
    assert isinstance(first, RelaxTable)
    state = feed(policy, state, [0.9] * 15, [0.95] * 15)  # 30 labels: not yet
    assert policy.decide(state, OUTLOOK) is first
    state = feed(policy, state, [0.9], [0.95])
    assert policy.decide(state, OUTLOOK) is not first


@pytest.mark.parametrize("policy", [Posterior(), Threshold()])
def test_a_request_keeps_the_rule_of_its_start(policy):
    accepted, rejected = beta_distances(num_accepted=64, num_rejected=64)
    shared = feed(policy, policy.start(None), accepted, rejected)
    begun = policy.start(shared)
    rule = policy.decide(begun, OUTLOOK)
    assert rule is not None
    later = feed(policy, begun, 1 - accepted, 1 - rejected)
    assert policy.decide(later, OUTLOOK) == rule


def test_other_scopes_follow_the_request_or_forget_the_process():
    accepted, rejected = beta_distances(num_accepted=64, num_rejected=64)
    request = Posterior(PosteriorOptions(scope=AcceptanceScope.REQUEST))
    shared = feed(request, request.start(None), accepted, rejected)
    assert request.decide(request.start(shared), OUTLOOK) is None
    continued = Posterior(PosteriorOptions(scope=AcceptanceScope.CONTINUED))
    begun = continued.start(shared)
    later = feed(continued, begun, [0.8] * 16, [0.1] * 16)
    assert continued.decide(later, OUTLOOK) != continued.decide(begun, OUTLOOK)


# --------------------------------------------------------------------------- threshold


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (Form.MIDPOINT, 0.4),  # (.2 + .6) / 2
        (Form.MEAN_ALL, 0.3),  # (96 * .2 + 32 * .6) / 128
        (Form.MEAN_REJECTED, 0.6),
    ],
)
def test_threshold_forms_by_hand(form, expected):
    policy = Threshold(ThresholdOptions(form=form, evidence=FOREVER))
    state = policy.start(None)
    for _ in range(16):
        state = policy.learn(state, judged([0.1, 0.1, 0.1, 0.3, 0.3], 0.5))
        state = policy.learn(state, judged([0.3], 0.7))
    assert policy.decide(state, OUTLOOK) == RelaxBelow(pytest.approx(expected, abs=1 / 256))


def test_threshold_with_means_the_wrong_way_round_stays_exact():
    policy = Threshold()
    state = feed(
        policy, policy.start(None), *[1 - d for d in beta_distances(num_accepted=64, num_rejected=64)]
    )
    assert state.evidence.warm(policy.options.evidence)
    assert policy.decide(state, OUTLOOK) is None
