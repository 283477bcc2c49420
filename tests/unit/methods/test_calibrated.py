"""Calibrated stopping, on made-up texts with a known best policy."""

import random
from dataclasses import replace

import pytest

from adasd.evaluate.compared_methods import method
from adasd.evaluate.replay import Costs, Replayed, replay
from adasd.evaluate.traces import Trace
from adasd.methods.drafting.calibrated import Calibrated
from adasd.methods.policy import RoundOutlook
from adasd.rounds import ENTROPY_EDGES, ChanceTable, StopRule
from adasd.stop_rule import entropy_bin, next_chance, stops

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
    assert policy.decide(
        replace(state, counts=replace(state.counts, judged_B=state.counts.judged_B + 9)), dear
    ) == (StopRule(0))
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
