from collections import Counter

from load_tests.interleaving import Turn, turns

NAMES = ("a", "b", "c")


def test_everybody_meets_every_prompt_once_per_repeat():
    taken = list(turns(NAMES, 4, 2))
    assert len(taken) == len(set(taken)) == 3 * 4 * 2
    assert set(taken) == {Turn(r, p, n) for r in range(2) for p in range(4) for n in NAMES}


def test_all_have_met_a_prompt_before_the_next_one_comes():
    taken = list(turns(NAMES, 4, 1))
    assert [{turn.prompt for turn in taken[i : i + 3]} for i in range(0, 12, 3)] == [{0}, {1}, {2}, {3}]


def test_everybody_begins_equally_often():
    firsts = Counter(turn.name for turn in list(turns(NAMES, 6, 1))[::3])
    assert firsts == {"a": 2, "b": 2, "c": 2}
    assert next(turns(NAMES, 1, 2)).name != list(turns(NAMES, 1, 2))[3].name
