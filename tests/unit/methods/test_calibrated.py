"""Calibrated stopping, on made-up texts with a known best policy."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adasd.evaluate.compared_methods import method
from adasd.evaluate.replay import Costs, Replayed, replay
from adasd.evaluate.traces import Trace
from adasd.methods.drafting.calibrated import (
    FIRST,
    LONGEST,
    MOST_NEW,
    NUM_BINS,
    PRICES,
    Calibrated,
    Counts,
    Forecast,
    Judged,
    Priors,
)
from adasd.methods.policy import RoundOutlook
from adasd.rounds import ENTROPY_EDGES, ChanceTable, StopRule
from adasd.stop_rule import entropy_bin, next_chance, stops
from tests.unit.methods.rounds import a_round

FLAT = ChanceTable((0.5,) * 9, (0.5,) * 9, 0.2)
TIMED = RoundOutlook(16, 100, draft_ms=0.1, hop_ms=0.0, verify_ms=1.0, plain_ms=1.0)


def texts(chance_of, num=12, length=120, seed=0, entropies=(0.005, 0.3, 1.8)):
    """Traces with a random entropy per position, also after rejections; accepted with ``chance_of(entropy)``."""
    rng = random.Random(seed)

    def signal():
        return rng.choice(entropies), 0.5

    made = []
    for _ in range(num):
        signals = tuple(signal() for _ in range(length))
        accepted = tuple(rng.random() < chance_of(entropy) for entropy, _ in signals)
        off_path = {at: tuple(signal() for _ in range(16)) for at, ok in enumerate(accepted) if not ok}
        made.append(Trace("made up", 0.0, length, length, accepted, signals, off_path))
    return made


def speed(answers: list[Replayed]) -> float:
    return sum(answer.num_tokens for answer in answers) / sum(answer.ms for answer in answers)


def against_static(traces, costs):
    """Speed (tokens per millisecond) relative to the best static length or plain decoding."""
    names = ["off", *(f"static-{length}" for length in range(1, 17))]
    best = max(speed(replay(traces, method(name), costs)) for name in names)
    return speed(replay(traces, method("calibrated"), costs)) / best


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.3])
def test_where_entropy_tells_all_it_beats_every_length(ratio):
    traces = texts(lambda entropy: 0.97 if entropy < 1 else 0.05)
    assert against_static(traces, Costs(ratio)) > 1.05


@pytest.mark.parametrize("chance", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.3])
def test_where_entropy_tells_nothing_it_is_as_good_as_the_best_length(chance, ratio):
    assert against_static(texts(lambda _: chance), Costs(ratio, hop_ms=0.1)) > 0.95


@pytest.mark.parametrize("ratio", [0.05, 0.3, 1.0])
def test_a_hopeless_draft_costs_next_to_nothing_from_the_first_answer_on(ratio):
    traces = texts(lambda _: 0.01)
    costs = Costs(ratio, hop_ms=0.2)
    plain = replay(traces, method("off"), costs)
    ours = replay(traces, method("calibrated"), costs)
    assert speed(ours[:1]) / speed(plain[:1]) > 0.93
    assert speed(ours) / speed(plain) > 0.98
    assert sum(answer.num_drafted for answer in ours[6:]) > 0  # drafting is tried again, ever more rarely


def test_a_draft_that_becomes_good_is_used_again():
    traces = texts(lambda _: 0.01, num=3) + texts(lambda _: 0.95, num=12, seed=1)
    ours = replay(traces, method("calibrated"), Costs(0.1))
    assert speed(ours[-3:]) > 2.5


def test_until_times_are_measured_a_block_is_short():
    policy = Calibrated()
    state = policy.start(None)
    assert policy.decide(state, RoundOutlook(16, 100)) == StopRule(policy.initial)
    rule = policy.decide(state, TIMED)
    assert rule.max_tokens == 16
    assert rule.table is not None
    assert 0 < rule.table.price < 1


def test_without_a_bypass_every_round_drafts():
    policy = Calibrated()
    state = policy.start(None)
    dear = RoundOutlook(16, 100, draft_ms=5.0, hop_ms=5.0, verify_ms=1.0, plain_ms=1.0)
    assert policy.decide(state._replace(total=90.0), dear) == StopRule(0)
    assert policy.decide(state, replace(dear, may_bypass=False)).table is not None


def test_dear_tokens_make_the_price_rise():
    policy = Calibrated()
    state = policy.start(None)
    prices = [
        policy.decide(
            state, RoundOutlook(16, 100, draft_ms=ms, hop_ms=0.0, verify_ms=1.0, plain_ms=1.0)
        ).table.price
        for ms in (0.02, 0.1, 0.3)
    ]
    assert prices == sorted(prices)
    assert prices[0] < prices[-1]


def test_a_table_stops_where_the_next_token_is_not_worth_its_price():
    rule = StopRule(16, table=FLAT)
    assert [stops(rule, (0.1,) * num, 1.0) for num in (1, 2, 3)] == [False, True, True]
    assert next_chance(FLAT, (0.1, 5.0)) == 0.5**3


def test_bins_are_closed_below_and_a_broken_entropy_is_doubtful():
    assert entropy_bin(0.0) == 0
    assert [entropy_bin(edge) for edge in ENTROPY_EDGES] == list(range(1, len(ENTROPY_EDGES) + 1))
    assert entropy_bin(float("nan")) == entropy_bin(float("inf")) == len(ENTROPY_EDGES)


# --------------------------------------------------------------------------- counts and forecasts against slow twins

VERDICTS = st.lists(
    st.lists(st.integers(0, NUM_BINS - 1), min_size=1, max_size=5).flatmap(
        lambda bins: st.builds(Judged, st.just(tuple(bins)), st.integers(len(bins) - 1, len(bins)))
    ),
    min_size=1,
    max_size=6,
)


def count(verdicts: list[Judged], fade: float) -> Counts:
    """Token by token."""
    none = Counts.none(Priors())
    accepted, judged, moves = none.accepted_B.tolist(), none.judged_B.tolist(), none.moves_CB.tolist()
    for age, (bins, num_accepted) in enumerate(reversed(verdicts)):
        before = FIRST
        for place, bin in enumerate(bins):
            accepted[bin] += fade**age * (place < num_accepted)
            judged[bin] += fade**age
            moves[before][bin] += fade**age
            before = bin
    return Counts(np.array(accepted), np.array(judged), np.array(moves), Priors())


def round_of(price: float, forecast: Forecast, moves: list[list[float]]) -> tuple[float, float]:
    """Accepted and drafted tokens of a round, following each bin by itself."""
    reach = dict(enumerate(moves[FIRST]))
    stand = {bin: reach[bin] * forecast.chances[bin] for bin in reach}
    gain, drafted = sum(stand.values()), 1.0
    for _ in range(1, LONGEST):
        going = [bin for bin in reach if stand[bin] * forecast.next_chances[bin] > price * reach[bin]]
        drafted += sum(reach[bin] for bin in going)
        gain += sum(stand[bin] * forecast.next_chances[bin] for bin in going)
        reach, stand = (
            {to: sum(chance[bin] * moves[bin][to] for bin in going) for to in range(NUM_BINS)}
            for chance in (reach, stand)
        )
        stand = {bin: stand[bin] * forecast.chances[bin] for bin in stand}
    return gain, drafted


@given(VERDICTS, st.integers(0, 6), st.sampled_from([1.0, 0.9]))
@settings(max_examples=50, deadline=None)
def test_verdicts_are_counted_alike_token_by_token_and_in_any_portions(verdicts, cut, fade):
    wanted, none = count(verdicts, fade), Counts.none(Priors())
    portions = [part for part in (verdicts[:cut], verdicts[cut:]) if part]
    found = none
    for part in portions:
        found = found.plus(part, fade)
    for name in ("accepted_B", "judged_B", "moves_CB"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name))


@given(VERDICTS)
@settings(max_examples=20, deadline=None)
def test_a_forecast_follows_the_chain_of_bins(verdicts):
    counts = count(verdicts, 1.0)
    forecast, priors = counts.forecast, counts.priors
    share = counts.moves_CB.sum(axis=0) + 1 / NUM_BINS
    moves = counts.moves_CB + priors.move_weight * share / share.sum()
    rows = (moves / moves.sum(axis=1, keepdims=True)).tolist()
    for place, price in list(enumerate(PRICES))[::5]:
        found = forecast.gain_G[place], forecast.drafted_G[place]
        assert found == pytest.approx(round_of(price, forecast, rows))


def test_a_state_keeps_few_verdicts_however_rarely_forecasts_are_asked_for():
    policy = Calibrated(fade=1.0, refresh=0.5)
    state = policy.start(None)
    for _ in range(1000):
        state = policy.learn(state, a_round(1, 1, entropies=(0.2,)))
        assert len(state.new) < MOST_NEW
    assert state.total == 1000
    assert state.believed.judged_B.sum() + state.num_new == pytest.approx(1000)
