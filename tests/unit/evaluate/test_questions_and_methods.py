"""Questions and methods of an evaluation: good input is understood, bad input is named."""

import re

import pytest

from adasd.errors import ConfigError, InvalidRequest
from adasd.evaluate.compared_methods import PLAIN, STATIC_LENGTHS, all_names, method, parse
from adasd.evaluate.questions import demo, holds, jsonl, messy
from adasd.methods.registry import acceptance_methods, drafting_methods
from adasd.requests import Mode, SpeculationOptions


def test_the_demo_tasks_come_in_turn_and_can_be_judged():
    items = demo(2, seed=3)
    assert [item.group for item in items] == ["arithmetic", "function", "story", "extraction"] * 2
    assert not any(item.judge("nonsense") for item in items)
    assert demo(3, seed=3)[: len(items)] != demo(2, seed=4)
    assert [item.prompt for item in demo(3, seed=3)[: len(items)]] == [item.prompt for item in items]


def test_lines_of_json_with_and_without_a_reference(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "2 + 2?", "reference": "Four"}\n\n{"prompt": "Tell me a story."}\n')
    known, free = jsonl(file)
    assert (known.group, known.prompt) == ("mine", "2 + 2?")
    assert known.judge("It is  FOUR.")
    assert not known.judge("five")
    assert free.judge is None
    assert len(jsonl(file, limit=1)) == 1


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 1: no JSON"),
        ("[1]", "line 1: expected an object"),
        ('{"prompt": ""}', "text 'prompt'"),
        ('{"prompt": "a", "reference": 4}', "text 'reference'"),
        ("", "holds no prompt"),
    ],
)
def test_a_bad_line_is_named(line, complaint, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(ConfigError, match=complaint):
        jsonl(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl cannot be read"):
        jsonl(tmp_path / "nowhere.jsonl")


def test_references_ignore_case_and_blanks():
    assert holds("a  B", "xx A b\nyy")
    assert not holds("ab", "a b")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("off", SpeculationOptions(Mode.OFF)),
        ("adaedl", SpeculationOptions(Mode.EXACT, "adaedl")),
        ("static-8", SpeculationOptions(Mode.EXACT, "static", None, 8)),
        ("adaedl/7", SpeculationOptions(Mode.EXACT, "adaedl", None, 7)),
        ("adasd+collision", SpeculationOptions(Mode.ADAPTIVE, "adasd", "collision", None, 0.2)),
        ("static-5+posterior", SpeculationOptions(Mode.ADAPTIVE, "static", "adasd", 5, 0.2)),
        (
            "on-the-fly:variant=fsm+typical:delta=0.2",
            SpeculationOptions(Mode.ADAPTIVE, "on-the-fly:variant=fsm", "typical:delta=0.2", None, 0.2),
        ),
    ],
)
def test_names_stand_for_options(name, options):
    made = method(name, max_relaxed_fraction=0.2)
    assert made.options == options


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("adasdd", "did you mean 'adasd'"),
        ("adasd+colision", "did you mean 'collision'"),
        ("static-0", "static-1 to static-16"),
        ("static-x+posterior", "static-1 to static-16"),
        ("static-99", "static-1 to static-16"),
        ("adasd+", "known: adasd, adasd-v1, collision"),
    ],
)
def test_unknown_methods_are_refused_with_what_is_possible(name, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        method(name)


def test_all_holds_every_policy_and_every_baseline():
    names = all_names()
    assert len(set(names)) == len(names)
    assert {f"static-{length}" for length in STATIC_LENGTHS} <= set(names)
    assert {one.name for one in drafting_methods()} - {"static"} <= set(names)
    assert {f"adasd+{one.name}" for one in acceptance_methods()} <= set(names)


def test_plain_decoding_is_always_first_and_nothing_comes_twice():
    assert [one.name for one in parse("adasd, static-5,adasd")] == [PLAIN, "adasd", "static-5"]
    assert [one.name for one in parse("all")] == all_names()


def test_messy_prompts_keep_their_numbers_and_their_judges():
    clean, typed = demo(6, seed=3), messy(6, seed=3)
    assert [item.group for item in clean] == [item.group for item in typed]
    changed = [a.prompt != b.prompt for a, b in zip(clean, typed, strict=True)]
    assert sum(changed) > len(changed) / 2
    for a, b in zip(clean, typed, strict=True):
        assert re.findall(r"\d+", a.prompt) == re.findall(r"\d+", b.prompt)
        assert b.judge is not None
    assert [item.prompt for item in typed] == [item.prompt for item in messy(6, seed=3)]


def test_whole_blocks_are_a_method_where_there_is_rejection_sampling():
    made = method("static-8+block")
    assert (made.options.mode, made.options.acceptance) == (Mode.EXACT, "block")
    assert [made.serves(t) for t in (0.0, 0.7)] == [False, True]
    assert method("adasd+typical").serves(0.0)
    assert method("adasd+collision").serves(0.0)
    assert method("static-8+token").serves(0.0)
