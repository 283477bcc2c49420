"""A look-up that is not used is judged as if it had been."""

import random
from itertools import islice

import pytest

from adasd.config import SpeculationConfig
from adasd.control.controller import Controller
from adasd.control.draft_choice import Judged
from adasd.drafters.ngram import NgramIndex
from adasd.drafters.suffix import SuffixAutomaton
from adasd.drafters.unused import LONGEST, PIECE, UnusedLookup
from tests.unit.drafters.test_sources import Tiers, answer, runner


def as_if_used(make, prompt, text) -> Judged:
    """The slow twin: an index made anew for every round."""
    at, done = 0, Judged()
    while True:
        index = make()
        index.extend((*prompt, *text[:at]))
        block = [guess.token for guess in islice(index.guesses(), LONGEST)]
        rest = text[at:]
        right = next((i for i, token in enumerate(block) if rest[i : i + 1] != (token,)), len(block))
        if right >= len(rest):
            return done  # the last round has not ended
        done, at = done.plus(right + 1, len(block)), at + right + 1


@pytest.mark.parametrize("make", [SuffixAutomaton, NgramIndex])
@pytest.mark.parametrize("seed", range(20))
def test_its_rounds_are_those_that_it_would_have_had(make, seed):
    rng = random.Random(seed)
    prompt = tuple(rng.choices(range(4), k=20))
    text = tuple(rng.choices(range(4), k=60))
    unused = UnusedLookup(make(), prompt)
    unused.follow(())  # reads the prompt
    rounds, at = [], 0
    while at < len(text):
        num = rng.randrange(1, 5)
        rounds.append(unused.follow(text[at : at + num]))
        at += num
    assert Judged(*(sum(values) for values in zip(*rounds, strict=True))) == as_if_used(make, prompt, text)


def test_a_long_prompt_is_read_in_pieces_and_nothing_is_judged_meanwhile():
    unused = UnusedLookup(NgramIndex(), (1, 2, 3) * PIECE)
    assert [unused.follow((1,)).rounds for _ in range(3)] == [0, 0, 0]
    assert unused.follow((2, 3)).rounds == 0  # what was written in the meantime is read
    assert unused.follow((9, 9, 9)).rounds > 0


async def test_an_answer_of_a_model_tells_what_look_ups_would_have_yielded():
    placement = Tiers(("model",))
    controller = Controller(SpeculationConfig(), placement.draft_names)
    running = runner(placement, "auto", controller)
    report = (await answer(running)).speculation
    assert report.drafts_used[0] == "model"
    known = controller.selector._tasks[running.controller._task]
    assert known["suffix"].cost > 0
    assert known["ngram"].cost > 0


async def test_where_the_request_names_its_source_nothing_else_is_judged():
    placement = Tiers(("model",))
    controller = Controller(SpeculationConfig(), placement.draft_names)
    running = runner(placement, "model", controller)
    await answer(running)
    assert set(controller.selector._tasks[running.controller._task]) == {"model"}
