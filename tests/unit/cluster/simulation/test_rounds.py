"""Round by round: exact where it can be computed by hand, equal to the replay of traces, and nothing is lost."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from adasd.config import SpeculationConfig
from adasd.engine.forward.native.forward import NativeLlama
from adasd.errors import ConfigError
from adasd.evaluate.compared_methods import method
from adasd.evaluate.replay import Costs, replay
from adasd.evaluate.traces import Trace
from adasd.requests import Mode
from adasd.rounds import RoundCompleted
from cluster.simulation.objective import Objective
from cluster.simulation.outcome import DONE, LATE
from cluster.simulation.rounds import SMALLEST_ON_CPU, closed_loop, open_loop, simulate
from cluster.simulation.texts import EvenTexts, recorded
from tests.unit.cluster.simulation.parts import config, pair


def traces(number: int, seed: int = 0) -> list[Trace]:
    """Made-up traces: the draft hesitates where it errs, now and then."""
    chance = random.Random(seed)
    made = []
    for _ in range(number):
        length = chance.randint(20, 60)
        accepted = tuple(chance.random() < 0.75 for _ in range(length + 16))
        signals = tuple((chance.uniform(0, 1) if ok else chance.uniform(0.5, 2.5), 0.6) for ok in accepted)
        off_path = {at: ((1.5, 0.4),) * 16 for at, ok in enumerate(accepted) if not ok}
        made.append(Trace("made up", 0.0, length, 200, accepted, signals, off_path))
    return made


def test_plain_decoding_takes_one_pass_per_token():
    found = simulate(config(Mode.OFF), pair(), open_loop([0.0], EvenTexts(0.8, 50), 10))
    answers = found.answers.columns()
    assert answers["num_tokens"].tolist() == [50]
    assert answers["first_s"][0] == pytest.approx(0.020, abs=1e-6)
    assert answers["ended_s"][0] == pytest.approx(50 * 0.020, abs=1e-6)


@pytest.mark.parametrize("name", ["static-2", "static-3", "static-5"])
def test_rounds_are_those_of_the_replay(name: str):
    """The same static length over the same text drafts and emits the same."""
    made = traces(1, seed=7)
    seen: list[RoundCompleted] = []
    drafting, _, longest = name.partition("-")
    settings = SpeculationConfig(
        drafting=drafting, max_draft_tokens=int(longest or 16), bypass=False, draft_ahead=False
    )
    found = simulate(
        config(speculation=settings), pair(), open_loop([0.0], recorded(made), 10), on_round=seen.append
    )
    rounds = [done for done in seen if not done.prefill]
    # the first token comes with the prompt's verdict; a replay begins there
    rest = replace(
        made[0],
        num_tokens=made[0].num_tokens - 1,
        accepted=made[0].accepted[1:],
        signals=made[0].signals[1:],
        off_path={at - 1: each for at, each in made[0].off_path.items()},
    )
    [wanted] = replay([rest], method(name), Costs(draft_ms=0.1, hop_ms=0.0))
    assert found.answers.columns()["num_tokens"].tolist() == [made[0].num_tokens]
    assert len(rounds) == wanted.num_rounds
    assert sum(done.num_drafted for done in rounds) == wanted.num_drafted


def test_speculation_pays_when_the_draft_is_fast_and_right():
    texts = EvenTexts(0.9, 100)
    exact, off = (
        simulate(config(mode), pair(), closed_loop([(1, 8.0)], texts, 10)).figures(Objective())
        for mode in (Mode.EXACT, Mode.OFF)
    )
    assert exact.tokens_per_s > 2 * off.tokens_per_s


def test_every_request_ends_once_and_slots_bound_what_runs():
    times_s = [0.01 * i for i in range(60)]
    its = replace(config(), max_queued_requests=20, admission_timeout_s=1.0)
    found = simulate(its, pair(num_slots=4), open_loop(times_s, EvenTexts(0.5, 40), 10), sample_s=0.5)
    outcomes = found.answers.columns()["outcome"].tolist()
    assert len(outcomes) == 60
    assert outcomes.count(DONE) >= 4
    assert outcomes.count(LATE) > 0
    assert all(sample.running <= 4 for sample in found.samples)
    done = found.figures(Objective())
    assert done.num_done + done.num_refused == 60


def test_a_load_step_adds_targets_and_takes_them_away():
    phases = [(2, 20.0), (20, 60.0), (2, 60.0)]
    its = config(Mode.OFF, targets=(1, 3), down_after_s=10.0)
    clients = closed_loop(phases, EvenTexts(0.5, 15), 10)
    found = simulate(its, pair(num_slots=8, start_up_s=5.0, slower=15.0), clients)
    counts = [sample.targets for sample in found.samples]
    assert counts[0] == 1
    assert max(counts) == 3
    assert counts[-1] == 1
    changes = [number for number, following in pairwise(counts) if number != following]
    assert changes in ([1, 3], [1, 3, 2], [1, 2, 3, 2], [1, 2, 3])


def test_equal_seeds_give_equal_runs():
    one, two = (
        simulate(
            config(), pair(), open_loop([0.0, 0.1, 0.2], recorded(traces(5)), 10), seed=3
        ).answers.columns()
        for _ in range(2)
    )
    for name in one:
        assert one[name].tolist() == two[name].tolist()


def test_relaxed_acceptance_is_not_simulated():
    with pytest.raises(ConfigError, match=r"set speculation\.mode to exact or off"):
        simulate(config(Mode.ADAPTIVE), pair(), open_loop([0.0], EvenTexts(0.5, 5), 10))


def test_prompts_get_the_engines_own_budget():
    """A prompt of 1,024 tokens beside seven running sessions takes four passes on a card."""
    assert NativeLlama.smallest_prefill == SMALLEST_ON_CPU
    assert NativeLlama.sequence_cost == 0
    clients = open_loop([0.0] * 7 + [1.0], EvenTexts(0.5, 80), 1024)
    found = simulate(config(Mode.OFF), pair(num_slots=8), clients)
    answers = found.answers.columns()
    newest = int(answers["arrived_s"].argmax())
    waited_s = answers["first_s"][newest] - answers["arrived_s"][newest]
    assert waited_s < 4 * 0.064 + 2 * 0.024  # passes of up to 512 tokens, one of which was under way
