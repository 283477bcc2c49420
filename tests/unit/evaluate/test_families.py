"""The twelve families: distinct prompts, disjoint splits, and checks that know right from wrong."""

import pytest

from adasd.errors import ConfigError
from adasd.evaluate.families import material
from adasd.evaluate.families.ask import Ask, Split, asks, part, side
from adasd.evaluate.families.twelve import FAMILIES, FREE_WORDING
from adasd.evaluate.questions import WORKLOADS

NUM = 40
NOT_UNIQUE = ("classification", *FREE_WORDING)
"""Families in which the right answer to one prompt may be right for another."""


@pytest.fixture(scope="module")
def written() -> dict[tuple[str, Split], list[Ask]]:
    return {
        (name, split): asks(name, family, NUM, 0, split)
        for name, family in FAMILIES.items()
        for split in Split
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_a_right_answer_is_right_and_others_are_not(name, written):
    few = written[name, Split.TEST][:6] if name == "repair" else written[name, Split.TEST]  # code is run
    wrong = 0
    for at, ask in enumerate(few):
        assert ask.judge(ask.answer), ask
        assert ask.judge(f"Sure! Here it is:\n{ask.answer}\n"), ask
        assert not ask.judge("")
        assert not ask.judge("I do not know.")
        wrong += not ask.judge(few[at - 1].answer)
    assert name in NOT_UNIQUE or wrong > 0.8 * len(few)  # two prompts may have the same answer by chance


@pytest.mark.parametrize(
    "name", ["copyedit", "sorting", "repair", "rewriting", "extraction", "dates", "units"]
)
def test_the_prompt_is_no_answer_to_itself(name, written):
    assert not any(ask.judge(ask.prompt) for ask in written[name, Split.DEV][:10])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_splits_share_no_prompt_and_no_key(name, written):
    dev, test = written[name, Split.DEV], written[name, Split.TEST]
    assert len({ask.prompt for ask in (*dev, *test)}) == 2 * NUM
    assert not {ask.key for ask in dev} & {ask.key for ask in test}
    if dev[0].of_numbers:
        assert {side(ask.key) for ask in dev} == {Split.DEV}


def test_the_splits_share_no_word_of_a_list():
    for words in (material.NAMES, material.SENTENCES, material.PRAISE):
        dev, test = part(words, Split.DEV), part(words, Split.TEST)
        assert sorted((*dev, *test)) == sorted(words)
        assert len(test) > len(dev) > len(words) // 4


def test_equal_seeds_write_equal_prompts_and_more_only_adds():
    of = WORKLOADS["test"]
    assert [item.prompt for item in of(3, 5)][:24] == [item.prompt for item in of(2, 5)]
    assert [item.prompt for item in of(2, 5)] != [item.prompt for item in of(2, 6)]
    assert [item.group for item in of(2, 5)] == [*FAMILIES] * 2
    assert not {item.prompt for item in of(NUM, 0)} & {item.prompt for item in WORKLOADS["dev"](NUM, 0)}


def test_a_family_that_runs_out_of_prompts_says_so():
    with pytest.raises(ConfigError, match=r"'units' has \d+ different prompts in split dev, not 500"):
        asks("units", FAMILIES["units"], 500, 0, Split.DEV)
