"""A phrase recognises the texts that it generates."""

import random
import re

import pytest

from adasd.demo.wording import phrase


def test_every_wording_matches_the_pattern_and_all_appear() -> None:
    text = phrase("{a {big|small|} <thing>|no <thing>} (here).")
    slots = {"thing": "b.x"}
    said = {text.say(random.Random(seed), slots) for seed in range(200)}
    assert said == {"a big b.x (here).", "a small b.x (here).", "a  b.x (here).", "no b.x (here)."}
    assert all(re.fullmatch(text.pattern(slots), wording) for wording in said)
    assert not re.fullmatch(text.pattern(slots), "a big bax (here).")


def test_signs_that_are_no_slots_are_text() -> None:
    assert phrase("1 < 2 <= <a> | x").say(random.Random(0), {"a": "3"}) == "1 < 2 <= 3 | x"


@pytest.mark.parametrize("text", ["{a|b", "a}b", "{a|{b}"])
def test_unbalanced_braces_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"brace|closed"):
        phrase(text)


def test_a_missing_slot_is_an_error() -> None:
    with pytest.raises(KeyError):
        phrase("<who>").say(random.Random(0))
