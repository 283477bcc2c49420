"""Calibrated stopping, on made-up texts with a known best policy."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adasd.cost_table import CostTable
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
    assert policy.initial <= rule.max_tokens <= 16
    assert rule.table is not None
    assert 0 < rule.table.price < 1


def test_without_a_bypass_every_round_drafts():
    policy = Calibrated()
    state = policy.start(None)
    dear = RoundOutlook(16, 100, draft_ms=5.0, hop_ms=5.0, verify_ms=1.0, plain_ms=1.0)
    assert policy.decide(state._replace(total=90.0), dear) == StopRule(0)
    assert policy.decide(state, replace(dear, may_bypass=False)).table is not None


def test_dear_tokens_make_blocks_short():
    policy = Calibrated()
    state = policy.start(None)
    lens = [policy.decide(state, replace(TIMED, draft_ms=ms)).max_tokens for ms in (0.02, 0.1, 0.3)]
    assert lens == sorted(lens, reverse=True)
    assert lens[0] > lens[-1]


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
        lambda bins: st.builds(
            Judged, st.just(tuple(bins)), st.integers(len(bins) - 1, len(bins)), st.integers(len(bins), 18)
        )
    ),
    min_size=1,
    max_size=6,
)


def count(verdicts: list[Judged], fade: float) -> tuple[list[list[float]], list[float], list[list[float]]]:
    """Moves, accepted tokens and blocks, token by token."""
    moves = [[0.0] * NUM_BINS for _ in range(NUM_BINS + 1)]
    accepted, blocks = [0.0] * NUM_BINS, [[0.0] * (LONGEST + 1) for _ in range(LONGEST + 1)]
    for age, (bins, num_accepted, num_drafted) in enumerate(reversed(verdicts)):
        before = FIRST
        for place, bin in enumerate(bins):
            accepted[bin] += fade**age * (place < num_accepted)
            moves[before][bin] += fade**age
            before = bin
        blocks[min(num_drafted, LONGEST)][num_accepted] += fade**age
    return moves, accepted, blocks


def round_of(price: float, longest: int, forecast: Forecast, moves: list[list[float]]) -> tuple[float, float]:
    """Accepted and drafted tokens of a round, following each bin by itself."""
    reach = dict(enumerate(moves[FIRST]))
    stand = {bin: reach[bin] * forecast.chances[bin] for bin in reach}
    gain, drafted = sum(stand.values()), 1.0
    for _ in range(1, longest):
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
    wanted, found = count(verdicts, fade), Counts.none(Priors())
    portions = [part for part in (verdicts[:cut], verdicts[cut:]) if part]
    for part in portions:
        found = found.plus(part, fade)
    for counts, expected in zip((found.moves_CB, found.accepted_B, found.blocks_LL), wanted, strict=True):
        assert counts == pytest.approx(np.array(expected))


@given(VERDICTS)
@settings(max_examples=20, deadline=None)
def test_a_forecast_follows_the_chain_of_bins(verdicts):
    counts = Counts.none(Priors()).plus(verdicts, 1.0)
    forecast, priors = counts.forecast, counts.priors
    share = counts.moves_CB.sum(axis=0) + 1 / NUM_BINS
    moves = counts.moves_CB + priors.move_weight * share / share.sum()
    rows = (moves / moves.sum(axis=1, keepdims=True)).tolist()
    for place, price in list(enumerate(PRICES))[::5]:
        for longest in (1, 2, LONGEST):
            found = forecast.gain_KG[longest - 1, place], forecast.drafted_KG[longest - 1, place]
            assert found == pytest.approx(round_of(price, longest, forecast, rows))


# --------------------------------------------------------------------------- the longest block


@given(st.lists(st.tuples(st.integers(1, 18), st.integers(0, 18)), min_size=1, max_size=60), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_a_cut_is_what_the_same_blocks_would_have_saved(blocks, price):
    verdicts = [Judged((0,), min(pair), pair[0]) for pair in blocks]
    found = Counts.none(Priors()).plus(verdicts, 1.0).cut(price * np.arange(LONGEST + 1))
    capped = [(min(one.num_drafted, LONGEST), min(one.num_accepted, LONGEST)) for one in verdicts]

    def saved(length: int) -> list[float]:
        return [price * max(0, long - length) - max(0, right - length) for long, right in capped]

    sure = {
        length: sum(saved(length)) - 3 * sum(each**2 for each in saved(length)) ** 0.5
        for length in range(1, LONGEST + 1)
    }
    best = max(sure, key=lambda length: sure[length])
    if sum(saved(best)) > 0.03 * sum(1 + right for _, right in capped) and sure[best] > 1e-9:
        assert sure[found] == pytest.approx(sure[best])
    elif sure[best] < -1e-9 or sum(saved(best)) < 0.02:
        assert found == LONGEST


def test_blocks_that_grow_in_vain_are_cut_until_the_evidence_has_faded():
    policy = Calibrated()
    state = policy.start(None)
    for _ in range(40):  # always sure, and right three times
        state = policy.learn(state, a_round(3, 16, entropies=(0.005,) * 16))
    assert policy.decide(state, TIMED).max_tokens == 3
    for _ in range(1000):
        state = policy.learn(state, a_round(3, 3, entropies=(0.005,) * 3))
    assert policy.decide(state, TIMED).max_tokens > 3


def stepped(step: int, step_ms: float) -> CostTable:
    table = CostTable()
    for size in [1, 2, 3, 4, 6, 8, 9, 12, 16, 17] * 8:
        table = table.add(size, 1.0 + step_ms * ((size - 1) // step))
    return table


def test_a_curve_is_what_a_line_through_all_passes_leaves():
    assert CostTable().add(1, 1.0).add(8, 2.0).bends(17) == []
    assert stepped(1, 0.1).bends(17) == pytest.approx([0.0] * 17)
    table = stepped(8, 0.8)
    counts, sizes, ms = np.array([point for point in table.points if point]).T
    line = np.polyfit(sizes, ms, 1, w=np.sqrt(counts))
    left = (ms - np.polyval(line, sizes)) * counts / (counts + 4)
    assert table.bends(17) == pytest.approx(np.interp(range(1, 18), sizes, left).tolist())


def test_blocks_end_where_the_target_takes_its_next_step():
    policy = Calibrated()
    state = policy.start(None)
    for _ in range(60):
        state = policy.learn(state, a_round(8, 8, entropies=(0.005,) * 8))

    def longest(table, **values):
        counts, sizes, ms = np.array([point for point in table.points if point]).T
        slope, base = np.polyfit(sizes, ms, 1, w=np.sqrt(counts))
        base = float(base + slope)
        times = RoundOutlook(
            16, 99, draft_ms=0.02, hop_ms=0.0, verify_ms=base, verify_ms_per_token=float(slope)
        )
        return policy.decide(state, replace(times, plain_ms=base, cost=table, **values)).max_tokens

    assert longest(stepped(1, 0.02)) == LONGEST
    assert longest(stepped(8, 2.0)) in (6, 7)
    assert longest(stepped(8, 2.0), batch_size=4.0) == LONGEST  # a shared pass says nothing of one block


@pytest.mark.parametrize("chance", [0.8, 0.95])
def test_on_a_device_with_steps_it_is_as_good_as_the_best_length(chance):
    assert against_static(texts(lambda _: chance, num=24), Costs(0.02, step=8, step_ms=0.8)) > 0.93


def test_a_state_keeps_few_verdicts_however_rarely_forecasts_are_asked_for():
    policy = Calibrated(fade=1.0, refresh=0.5)
    state = policy.start(None)
    for _ in range(1000):
        state = policy.learn(state, a_round(1, 1, entropies=(0.2,)))
        assert len(state.new) < MOST_NEW
    assert state.total == 1000
    assert state.believed.moves_CB.sum() + state.num_new == pytest.approx(1000)
