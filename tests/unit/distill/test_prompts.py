"""Prompts: seeded, distinct, and held-out ones about subjects that no other prompt names."""

from __future__ import annotations

from itertools import islice

import pytest

from adasd.distill import prompts, subjects
from adasd.errors import ConfigError


def texts(num: int, seed: int = 0, *, held_out: bool = False) -> list[str]:
    return [prompt.text for prompt in islice(prompts.stream(seed, held_out=held_out), num)]


def test_the_same_seed_gives_the_same_prompts() -> None:
    assert texts(200) == texts(200)
    assert texts(200) != texts(200, seed=1)


def test_thousands_of_prompts_are_distinct_and_of_every_kind() -> None:
    found = list(islice(prompts.stream(), 5000))
    assert len({prompt.text for prompt in found}) == 5000
    assert {prompt.kind for prompt in found} == set(prompts.KINDS)


def test_held_out_prompts_repeat_no_subject() -> None:
    held_out = subjects.part(subjects.THINGS, held_out=True)
    others = subjects.part(subjects.THINGS, held_out=False)
    assert not set(held_out) & set(others)
    assert len(held_out) + len(others) == len(subjects.THINGS)
    assert not set(texts(2000)) & set(texts(500, held_out=True))


def test_a_file_gives_one_prompt_per_line(tmp_path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(f"What is {number}?\n" for number in range(30)) + "What is 3?\n")
    assert [prompt.text for prompt in prompts.read(file)] == [f"What is {number}?" for number in range(30)]


def test_a_file_with_too_few_prompts_is_refused(tmp_path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("Hello\nHello\n")
    with pytest.raises(ConfigError, match="holds 1 different prompts"):
        prompts.read(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        prompts.read(tmp_path / "absent.txt")
