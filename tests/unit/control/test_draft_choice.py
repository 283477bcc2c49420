"""The choice of a draft source: by yield per task, with the cost of a change."""

from __future__ import annotations

import random

from adasd.control.draft_choice import MAX_TASKS, OWN_ROUNDS, Selector, Yield, task_of


def simulate(yields: dict[int, dict[str, float]], rounds: int = 4000, seed: int = 0) -> dict[int, list[str]]:
    """Answers of 20 rounds each, on the tasks in turn; returns the sources chosen for each task."""
    rng, selector = random.Random(seed), Selector(["model", "tiny", "suffix"])
    chosen: dict[int, list[str]] = {task: [] for task in yields}
    for number in range(rounds // 20):
        task = sorted(yields)[number % len(yields)]
        source = selector.first(task)
        chosen[task].append(source)
        for _ in range(20):
            tokens = max(1.0, rng.gauss(2 * yields[task][source], 1.0))
            selector.learn(task, source, tokens, 2.0)
    return chosen


def test_every_task_gets_the_source_that_yields_the_most_on_it():
    chosen = simulate(
        {
            1: {"model": 2.0, "tiny": 1.2, "suffix": 1.0},
            2: {"model": 1.2, "tiny": 2.0, "suffix": 1.0},
            3: {"model": 1.2, "tiny": 1.0, "suffix": 3.0},
        }
    )
    for task, best in ((1, "model"), (2, "tiny"), (3, "suffix")):
        late = chosen[task][len(chosen[task]) // 2 :]
        assert late.count(best) > 0.8 * len(late), (task, late)


def test_no_source_is_given_up_for_good():
    chosen = simulate({1: {"model": 2.0, "tiny": 1.5, "suffix": 1.4}}, rounds=40_000)[1]
    late = chosen[len(chosen) // 2 :]
    assert {"model", "tiny", "suffix"} == set(late)
    assert late.count("model") > 0.7 * len(late)


def test_a_source_that_becomes_better_is_found():
    selector, rng = Selector(["model", "tiny"]), random.Random(1)
    for phase, yields in enumerate(({"model": 2.0, "tiny": 1.2}, {"model": 1.2, "tiny": 2.0})):
        chosen = []
        for _ in range(300):
            source = selector.first(0)
            chosen.append(source)
            for _ in range(20):
                selector.learn(0, source, rng.gauss(yields[source], 0.5), 1.0)
        assert chosen[-100:].count(("model", "tiny")[phase]) > 70


def known(attach_cost: float) -> Selector:
    selector = Selector(["model", "tiny"])
    for _ in range(200):
        selector.learn(7, "model", 1.5, 1.0)
        selector.learn(7, "tiny", 3.0, 1.0)
    selector.attached("tiny", attach_cost)
    return selector


def test_within_an_answer_a_change_pays_only_while_enough_of_it_is_left():
    poor = Yield(1.2 * OWN_ROUNDS, OWN_ROUNDS)
    assert known(attach_cost=10.0).better(7, "model", poor, remaining_tokens=300) == "tiny"
    assert known(attach_cost=10.0).better(7, "model", poor, remaining_tokens=20) is None
    assert known(attach_cost=500.0).better(7, "model", poor, remaining_tokens=300) is None
    assert known(attach_cost=10.0).better(7, "model", poor, 300, excluded={"tiny"}) is None


def test_an_answer_that_goes_well_stays_whatever_others_did_on_average():
    well = Yield(8.0 * 60, 60)
    assert known(attach_cost=0.0).better(7, "model", well, remaining_tokens=300) is None


def test_untried_sources_are_tried_and_excluded_ones_are_not():
    selector = Selector(["model", "tiny", "suffix"])
    assert selector.first(0) == "model"
    assert selector.first(0, {"model"}) == "tiny"
    assert selector.first(0, {"model", "tiny", "suffix"}) == "model"  # nothing is left, so it starts over
    for _ in range(20):
        selector.learn(0, "model", 5.0, 1.0)
    assert selector.first(0) == "tiny"


def test_tasks_are_bounded():
    selector = Selector(["model"])
    for task in range(10 * MAX_TASKS):
        selector.learn(task, "model", 1.0, 1.0)
    assert len(selector._tasks) == MAX_TASKS


def test_prompts_that_begin_alike_are_of_one_task():
    beginning = tuple(range(16))
    assert task_of((*beginning, 5)) == task_of((*beginning, 6, 7))
    assert task_of((9, *beginning)) != task_of(beginning)


def seen(**yields: float) -> Selector:
    """A selector that has judged each source on 200 plain rounds of task 3."""
    selector = Selector(["model", "suffix", "ngram"], judged=["suffix", "ngram"])
    for name, tokens in yields.items():
        for _ in range(200):
            selector.learn(3, name, tokens, 1.0, used=name == "model")
    return selector


def test_what_is_judged_without_being_used_is_never_tried():
    selector = seen(model=2.0, suffix=1.9, ngram=1.0)
    for _ in range(2000):
        assert selector.first(3) == "model"
        selector.learn(3, "model", 2.0, 1.0)
        selector.learn(3, "suffix", 1.9, 1.0, used=False)


def test_what_is_judged_to_be_better_is_chosen():
    assert seen(model=2.0, suffix=1.2, ngram=4.0).first(3) == "ngram"
    assert seen(model=2.0, suffix=1.2, ngram=4.0).first(3, excluded=("ngram",)) == "model"
    assert seen(model=2.0, suffix=1.2, ngram=4.0).better(3, "model", Yield(20.0, 10.0), 100) == "ngram"


def test_a_model_that_became_better_while_a_look_up_was_used_is_tried_again():
    selector, chosen = seen(model=1.0, suffix=1.5, ngram=1.0), set()
    for _ in range(400):
        source = selector.first(3)
        chosen.add(source)
        for _ in range(10):
            selector.learn(3, source, 3.0 if source == "model" else 1.5, 1.0)
    assert selector.first(3) == "model"
    assert chosen == {"model", "suffix"}


def test_a_model_that_would_not_draft_is_no_trial():
    assert seen(suffix=1.2).first(3) == "model"
    assert seen(suffix=1.2).first(3, idle=("model",)) == "suffix"
    assert seen(suffix=0.9).first(3, idle=("model",)) == "model"


def test_a_look_up_that_was_right_a_few_times_replaces_plain_decoding_within_an_answer():
    selector = Selector(["model", "suffix"], judged=["suffix"])
    plain = Yield(4.0, 4.0)
    selector.learn(3, "suffix", 2.0, 2.0, used=False)
    assert selector.better(3, "model", plain, 100, at_least=1.0) is None
    selector.learn(3, "suffix", 16.0, 4.0, used=False)
    assert selector.better(3, "model", plain, 100, at_least=1.0) == "suffix"


def test_a_source_must_be_better_than_what_the_answer_gets_anyway():
    selector = seen(model=0.5, suffix=1.1)
    assert selector.better(3, "model", Yield(4.0, 4.0), 100) == "suffix"
    assert selector.better(3, "model", Yield(4.0, 4.0), 100, at_least=1.0) is None


def test_what_is_no_source_of_its_own_teaches_nothing():
    selector = seen(model=2.0)
    selector.learn(3, "self", 99.0, 1.0)
    assert selector.first(3) == "model"
