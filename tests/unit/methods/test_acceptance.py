"""Acceptance policies: densities against SciPy, the posterior by symmetry, warm-up and its edge cases."""

import numpy as np
import pytest
from scipy.stats import gaussian_kde

from adasd.methods.acceptance.adasd import Adasd, Decision, Priors, without_gaps
from adasd.methods.acceptance.adasd_v1 import AdasdV1
from adasd.methods.distance_histograms import CENTRES, DistanceHistograms, Label, Scope
from adasd.methods.kernel_density import Bandwidth, bandwidth, density, quantile
from adasd.methods.policy import RoundOutlook
from adasd.rounds import NUM_DISTANCE_BINS
from tests.unit.methods.rounds import a_round, judged

OUTLOOK = RoundOutlook(max_draft_tokens=16, remaining_tokens=100)
FOREVER = float("inf")


def evidence(accepted, rejected, memory=FOREVER):
    """From the distances of tokens that passed and of tokens that failed."""
    seen = DistanceHistograms().add(judged(accepted), Label.OUTCOME, memory)
    for distance in rejected:
        seen = seen.add(judged(rejected=distance), Label.OUTCOME, memory)
    return seen


def centres(*bins):
    return [(b + 0.5) / NUM_DISTANCE_BINS for b in bins]


def beta_distances(seed=0, num_accepted=300, num_rejected=100):
    rng = np.random.default_rng(seed)
    return rng.beta(2, 8, num_accepted), rng.beta(5, 5, num_rejected)


# --------------------------------------------------------------------------- labels


def test_labels_are_the_tokens_own_outcomes_or_those_of_the_exact_test():
    relaxed = a_round(2, 4, distances=[0.001, 0.5, 0.999], exact_ok=[True, False, False])
    for label, accepted in ((Label.OUTCOME, [0, 128]), (Label.EXACT, [0])):
        rejected, seen = DistanceHistograms().add(relaxed, label, FOREVER).weights
        assert np.flatnonzero(seen).tolist() == accepted
        assert np.flatnonzero(rejected).tolist() == [128, 255][len(accepted) - 1 :]


def test_distances_of_exactly_zero_or_one_and_no_numbers_are_left_out():
    done = a_round(4, 4, distances=[float("nan"), 0.0, 1.0, 0.3], exact_ok=[True] * 4)
    seen = DistanceHistograms().add(done, Label.OUTCOME, FOREVER)
    assert (seen.weights.sum(), seen.num_labels) == (1, 1)


def test_old_labels_fade():
    seen = evidence([0.1], [], 4.0).add(judged([0.9]), Label.OUTCOME, 4.0)
    assert seen.weights[1, 25] == pytest.approx(0.75)
    assert seen.weights[1, 230] == 1.0


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
    weights = evidence(accepted, []).weights[1]
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


# --------------------------------------------------------------------------- posterior


def test_mirrored_classes_meet_in_the_middle():
    """Rejected distances are 1 - d of the accepted ones, so P(A | d) = 1/2 at d = 1/2: bins 0 .. 127."""
    accepted = centres(*range(20, 160, 2))
    table = Adasd().fit(evidence(accepted, [1 - d for d in accepted]))
    assert table == (1.0,) * 128 + (0.0,) * 128


@pytest.mark.parametrize("priors", Priors)
def test_posterior_is_bayes_rule_on_scipys_densities(priors):
    accepted, rejected = (np.array(centres(*(d * 256).astype(int))) for d in beta_distances())
    seen = evidence(accepted, rejected)
    f_A, f_R = (
        gaussian_kde(d, bw_method=bandwidth(w, Bandwidth.SILVERMAN) / d.std(ddof=1))(CENTRES)
        for d, w in ((accepted, seen.weights[1]), (rejected, seen.weights[0]))
    )
    pi_A = 0.75 if priors is Priors.COUNTS else 0.5
    bayes = pi_A * f_A / (pi_A * f_A + (1 - pi_A) * f_R)
    body = slice(3, 200)  # beyond it both densities are nearly 0
    assert Adasd(priors=priors).posterior(seen)[body] == pytest.approx(
        np.minimum.accumulate(bayes)[body], abs=1e-6
    )


@pytest.mark.parametrize("seed", range(5))
def test_posterior_never_rises_and_is_a_probability(seed):
    chance = Adasd().posterior(evidence(*beta_distances(seed, 40, 32)))
    assert (np.diff(chance) <= 1e-12).all()
    assert chance.min() >= 0
    assert chance.max() <= 1


def test_equal_priors_accept_less_when_most_tokens_pass():
    seen = evidence(*beta_distances())
    by_counts, equal = (sum(Adasd(priors=priors).fit(seen)) for priors in (Priors.COUNTS, Priors.EQUAL))
    assert equal < by_counts


def test_stochastic_table_is_the_posterior_itself():
    seen, method = evidence(*beta_distances()), Adasd(decision=Decision.STOCHASTIC)
    assert method.fit(seen) == pytest.approx(method.posterior(seen).tolist())
    assert any(0.05 < chance < 0.95 for chance in method.fit(seen))


def test_nothing_is_accepted_where_no_token_was_ever_seen():
    table = Adasd().fit(evidence(centres(*range(10, 50)), centres(*range(60, 100))))
    assert max(table[150:]) == 0.0


def test_classes_the_wrong_way_round_stay_exact():
    """Passed tokens at large distances, failed ones at small: a running minimum accepts nothing."""
    far, near = centres(*range(150, 200)), centres(*range(20, 70))
    assert Adasd().fit(evidence(far, near)) is None


@pytest.mark.parametrize(
    ("accepted", "rejected"),
    [
        (centres(*range(100)), centres(*range(100, 131))),  # 31 rejected
        (centres(*range(31)), centres(*range(100, 200))),  # 31 accepted
        (centres(*range(100)), centres(*[120] * 40)),  # all rejected ones at one distance
        ([], []),
    ],
)
def test_cold_evidence_is_exact(accepted, rejected):
    assert Adasd().fit(evidence(accepted, rejected)) is None
    assert AdasdV1().decide(AdasdV1().start(None), OUTLOOK) is None


def feed(policy, state, accepted, rejected):
    for a, r in zip(accepted, rejected, strict=True):
        state = policy.learn(state, judged([a], r))
    return state


def test_posterior_warms_up_at_32_of_each_and_refreshes_every_32_labels():
    policy = Adasd(memory=FOREVER)
    accepted, rejected = centres(*range(20, 60)), centres(*range(100, 140))
    state = feed(policy, policy.start(None), accepted[:31], rejected[:31])
    assert policy.decide(state, OUTLOOK) is None
    state = feed(policy, state, accepted[31:32], rejected[31:32])
    first = policy.decide(state, OUTLOOK)
    assert first is not None
    state = feed(policy, state, [0.9] * 15, [0.95] * 15)  # 30 labels: not yet
    assert policy.decide(state, OUTLOOK) == first
    state = feed(policy, state, [0.9], [0.95])
    assert policy.decide(state, OUTLOOK) != first


@pytest.mark.parametrize("policy", [Adasd(), AdasdV1()])
def test_a_request_keeps_the_rule_of_its_start(policy):
    accepted, rejected = beta_distances(num_accepted=64, num_rejected=64)
    shared = feed(policy, policy.start(None), accepted, rejected)
    begun = policy.start(shared)
    rule = policy.decide(begun, OUTLOOK)
    assert rule is not None
    later = feed(policy, begun, 1 - accepted, 1 - rejected)
    assert policy.decide(later, OUTLOOK) == rule


def test_the_scope_of_a_request_forgets_the_process():
    accepted, rejected = beta_distances(num_accepted=64, num_rejected=64)
    for method in (Adasd(scope=Scope.REQUEST), AdasdV1(scope=Scope.REQUEST)):
        shared = feed(method, method.start(None), accepted, rejected)
        begun = method.start(shared)
        assert method.decide(begun, OUTLOOK) is None
        assert method.decide(feed(method, begun, accepted, rejected), OUTLOOK) is not None


# --------------------------------------------------------------------------- threshold


def test_the_threshold_by_hand():
    """(.2 + .6) / 2 in the mean of 96 accepted and 32 rejected tokens."""
    method = AdasdV1(memory=FOREVER)
    state = method.start(None)
    for _ in range(16):
        state = method.learn(state, judged([0.1, 0.1, 0.1, 0.3, 0.3], 0.5))
        state = method.learn(state, judged([0.3], 0.7))
    assert method.decide(state, OUTLOOK) == {
        "max_distance": pytest.approx(0.4, abs=1 / 256),
        "min_ratio": 0.0,
    }


def test_the_papers_example():
    """Means of .15 and .49 make .32."""
    method = AdasdV1(memory=FOREVER, warm_labels=2)
    state = feed(method, method.start(None), [0.1, 0.2], [0.48, 0.5])
    assert method.decide(state, OUTLOOK)["max_distance"] == pytest.approx(0.32, abs=1 / 256)


def test_threshold_with_means_the_wrong_way_round_stays_exact():
    method = AdasdV1()
    state = feed(
        method, method.start(None), *[1 - d for d in beta_distances(num_accepted=64, num_rejected=64)]
    )
    assert state.histograms.is_warm(method.warm_labels)
    assert method.decide(state, OUTLOOK) is None
