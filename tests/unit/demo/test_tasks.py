"""The generator is deterministic, training and held-out sides are disjoint, checks judge content, not wording."""

import json
import random
import re
from dataclasses import asdict

import pytest

from adasd.demo import arithmetic, extraction, functions, sandbox, stories
from adasd.demo.holdout import HELD_OUT_IN, Split, side
from adasd.demo.tasks import Example, Task, check, generate, heldout
from adasd.demo.words import NAMES

every_task = pytest.mark.parametrize("task", list(Task), ids=lambda task: task.value)


@every_task
def test_the_same_seed_gives_the_same_example(task: Task) -> None:
    assert generate(task, 7) == generate(task, 7)
    assert generate(task, random.Random(7)) == generate(task, 7)
    assert len({generate(task, seed).answer for seed in range(20)}) > 15


@every_task
def test_a_longer_held_out_list_begins_with_the_shorter_one(task: Task) -> None:
    assert heldout(task, 5, 3) == heldout(task, 9, 3)[:5]
    assert heldout(task, 5, 3) != heldout(task, 5, 4)


def content(example: Example) -> tuple[object, ...]:
    """The part of an example that must differ between the sides, extracted again from its text."""
    if example.task is Task.ARITHMETIC:
        worked = re.findall(r"(\d+) ([-+*/]) (\d+)", example.answer)
        return ("arithmetic", int(worked[0][0]), *((sign, int(operand)) for _, sign, operand in worked))
    if example.task is Task.EXTRACTION:
        return (example.prompt,)
    if example.task is Task.STORY:
        return ("story", *json.loads(example.reference).values())
    return functions.key(functions.Wanted(**json.loads(example.reference)))


@every_task
def test_training_never_shows_what_is_held_out(task: Task) -> None:
    rng = random.Random(1)
    trained = {content(generate(task, rng, Split.TRAIN)) for _ in range(1500)}
    held = {content(example) for example in heldout(task, 150)}
    assert not trained & held
    if task is not Task.EXTRACTION:  # the key has fields that the answer may lack
        assert {side(key) for key in held} == {Split.HELD_OUT}
        assert {side(key) for key in trained} == {Split.TRAIN}


def test_one_key_in_ten_is_held_out() -> None:
    share = sum(side(("key", number)) is Split.HELD_OUT for number in range(20_000)) / 20_000
    assert share == pytest.approx(1 / HELD_OUT_IN, abs=0.01)


@pytest.mark.parametrize("task", [Task.ARITHMETIC, Task.STORY, Task.EXTRACTION], ids=lambda task: task.value)
def test_every_reference_answer_passes_its_own_check(task: Task) -> None:
    assert all(check(example, example.answer) for example in heldout(task, 60))
    assert all(check(example, f"\n{example.answer} \n") for example in heldout(task, 5))


@every_task
def test_neither_another_answer_nor_none_passes(task: Task) -> None:
    example = heldout(task, 1)[0]
    other = next(
        other
        for other in heldout(task, 50, 1)
        if other.answer.splitlines()[-1] != example.answer.splitlines()[-1]
        and (task is not Task.FUNCTION or _function(other) != _function(example))
    )
    for wrong in (other.answer, "", "I do not know.", example.answer[: len(example.answer) // 2]):
        assert not check(example, wrong), wrong


def _function(example: Example) -> str:
    found: str = json.loads(example.reference)["family"]
    return found


def test_a_wrong_digit_is_found_in_every_arithmetic_answer() -> None:
    for example in heldout(Task.ARITHMETIC, 50):
        body, number = example.answer.rsplit(" ", 1)
        assert not check(example, f"{body} {int(number) + 1}")
        assert not check(example, f"{body} {number}\nAnd so on.")
        assert check(example, f"Other words. #### 1\n#### {number}")


def test_arithmetic_steps_are_true_and_within_bounds() -> None:
    rng = random.Random(2)
    for _ in range(300):
        steps = arithmetic.draw(rng)
        assert 2 <= len(steps) <= 4
        for step in steps:
            assert eval(f"{step.before} {step.sign} {step.operand}") == step.after
            assert arithmetic.SMALLEST <= step.after <= arithmetic.LARGEST


def test_a_story_needs_its_words_its_parts_and_their_order() -> None:
    for example in heldout(Task.STORY, 30):
        slots = json.loads(example.reference)
        sentences = re.split(r"(?<=\.) ", example.answer)
        assert len(sentences) == 5
        assert not check(example, " ".join(sentences[:-1]))
        assert not check(example, " ".join(reversed(sentences)))
        for word in slots.values():
            assert not check(example, example.answer.replace(word, "thing"))
        stranger = next(name for name in NAMES if name not in slots.values())
        assert not stories.check(slots | {"hero": stranger}, example.answer)


def test_an_extraction_compares_values_not_text() -> None:
    example = Example(Task.EXTRACTION, "", "", '{"name": "Mia", "count": 12}')
    assert check(example, '{"count":12,\n"name":"Mia"}')
    for wrong in ('{"name": "Mia", "count": "12"}', '{"name": "Mia"}', '{"name": "Mia", "count": 12', "12"):
        assert not check(example, wrong)


def test_every_way_to_write_a_function_gives_the_same_outputs() -> None:
    rng = random.Random(3)
    for family in functions.FAMILIES:
        wanted = functions.Wanted(family.name, 4, 9, family.titles[0])
        sources: set[str] = set()
        while len(sources) < len(family.bodies):
            text = functions.answer(rng, wanted)
            body = re.sub(
                r"\b(result|total|out|answer|res|v|item|i|y)\b|\n    #.*", "", functions.code_of(text)
            )
            parameter = re.search(r"\((\w+)\):", body)
            assert parameter
            normal = re.sub(rf"\b{parameter.group(1)}\b", "x", body)
            if normal in sources:
                continue
            sources.add(normal)
            source = functions.code_of(text)
            sandbox.inspect(source)
            space: dict[str, object] = {}
            exec(source, space)
            written = space[wanted.title]
            assert callable(written)
            for value, expected in functions.cases(wanted):
                assert written(value) == expected


def test_functions_are_judged_by_running_them() -> None:
    wanted = functions.Wanted("linear", 7, 3, "scale")
    example = Example(Task.FUNCTION, "", "", json.dumps(asdict(wanted)))
    assert check(example, "def scale(q):\n    return 3 + q + q * 6")
    assert not check(example, "```python\ndef scale(x):\n    return x * 7 + 4\n```")
    assert not check(example, "```python\ndef other(x):\n    return x * 7 + 3\n```")
    assert not check(example, "```python\ndef scale(x):\n    return x * 7 + (3\n```")


def test_a_reference_function_passes_in_the_sandbox() -> None:
    assert all(check(example, example.answer) for example in heldout(Task.FUNCTION, 6))


@pytest.mark.parametrize(
    "source",
    [
        "import os\ndef f(x):\n    return x",
        "def f(x):\n    return x.__class__",
        "def f(x):\n    return __import__('os').getcwd()",
        "def f(x):\n    return open('/etc/hostname').read()",
        "def f(x):\n    return 9 ** 9 ** 9",
        "def f(x):\n    return [0] * 9000000000",
        "def f(x):\n    return y",
    ],
)
def test_the_sandbox_runs_nothing_but_small_functions(source: str) -> None:
    assert sandbox.outputs(source, "f", [1]) is None


def test_the_sandbox_ends_what_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "TIME_LIMIT_S", 1.0)
    assert sandbox.outputs("def f(x):\n    while True:\n        pass", "f", [1]) is None


def test_extraction_asks_for_two_or_three_fields() -> None:
    rng = random.Random(4)
    assert {len(extraction.fields(rng)) for _ in range(50)} == {2, 3}
