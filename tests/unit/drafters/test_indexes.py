"""The look-ups' guesses against a slow twin."""

from __future__ import annotations

import random
import time
from collections import Counter
from itertools import islice

import pytest

from adasd.drafters.ngram import LONGEST, SHORTEST, NgramIndex
from adasd.drafters.predicted import PredictedIndex, Prediction
from adasd.drafters.recent import RecentAnswers, RememberingIndex
from adasd.drafters.suffix import COUNTED_LINKS, SEPARATOR, SHORTEST_MATCH, SuffixAutomaton


@pytest.mark.parametrize("seed", range(30))
def test_a_prediction_is_followed_left_and_found_again(seed):
    """The answer drops, adds or changes a token here and there; right after three common tokens it is guessed again."""
    rng = random.Random(seed)
    predicted = rng.sample(range(100, 200), 40)  # every token once, so every place is known by its tokens
    answer: list[int] = []
    for token in predicted:
        change = rng.choice(["drop", "add", "change", *["keep"] * 12])
        answer += {
            "drop": [],
            "add": [rng.randrange(99), token],
            "change": [rng.randrange(99)],
            "keep": [token],
        }[change]
    prompt = [rng.randrange(100, 200) for _ in range(10)]
    index = PredictedIndex(Prediction(tuple(predicted), len(prompt)), NgramIndex)
    index.extend(prompt[:4])
    index.extend(prompt[4:])
    assert [guess.token for guess in index.guesses()] == predicted
    for num, token in enumerate(answer, 1):
        index.extend([token])
        tail = answer[max(0, num - 2) : num]
        places = [i + 2 for i in range(len(predicted) - 1) if predicted[i : i + 2] == tail]
        if places:
            assert [guess.token for guess in index.guesses()] == predicted[places[0] :]
    assert len(index) == len(prompt) + len(answer)


def texts(num: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(rng.choice((2, 3, 6))) for _ in range(rng.randrange(1, 40))] for _ in range(num)]


def occurrences(text: list[int], piece: list[int]) -> list[int]:
    """The positions after each occurrence."""
    return [i + len(piece) for i in range(len(text) - len(piece) + 1) if text[i : i + len(piece)] == piece]


def longest_repeated_suffix(text: list[int]) -> int:
    return max((n for n in range(len(text)) if len(occurrences(text, text[len(text) - n :])) > 1), default=0)


@pytest.mark.parametrize("text", texts(200), ids=str)
def test_the_automaton_finds_the_longest_suffix_that_stands_elsewhere(text):
    index = SuffixAutomaton()
    for token in text:
        index.extend([token])
    assert len(index) == len(text)
    assert index.match_len == longest_repeated_suffix(text)


@pytest.mark.parametrize("text", texts(200, seed=1), ids=str)
def test_the_first_guess_followed_the_suffix_most_often(text):
    index = SuffixAutomaton()
    index.extend(text)
    num = longest_repeated_suffix(text)
    first = next(index.guesses(), None)
    if num < SHORTEST_MATCH:
        assert first is None
        return
    assert len(text) < COUNTED_LINKS * 2  # short enough that nearly every occurrence is counted
    followed = Counter(text[i] for i in occurrences(text, text[len(text) - num :]) if i < len(text))
    assert first is not None
    assert followed[first.token] == max(followed.values())
    assert first.max_prob == pytest.approx(followed[first.token] / (sum(followed.values()) + 1))


def test_a_repetition_is_continued_as_long_as_its_match_is():
    index = SuffixAutomaton()
    index.extend([1, 2, 3, 4, 5, 6, 7, 9, 1, 2, 3, 4])
    assert [guess.token for guess in index.guesses()] == [5, 6, 7, 9]
    cycle = SuffixAutomaton()
    cycle.extend([1, 2] * 20)
    assert [guess.token for guess in islice(cycle.guesses(), 6)] == [1, 2, 1, 2, 1, 2]


def test_doubt_grows_with_what_followed():
    sure, torn = SuffixAutomaton(), SuffixAutomaton()
    sure.extend([1, 2, 3] * 8 + [9, 1, 2])
    torn.extend([1, 2, 3, 1, 2, 4, 1, 2, 5, 1, 2])
    assert next(sure.guesses()).entropy < next(torn.guesses()).entropy
    assert next(sure.guesses()).max_prob > next(torn.guesses()).max_prob


@pytest.mark.parametrize("text", texts(100, seed=2), ids=str)
def test_prompt_look_up_copies_what_followed_the_newest_longest_ngram(text):
    index = NgramIndex()
    index.extend(text)
    expected: list[int] = []
    for n in range(LONGEST, SHORTEST - 1, -1):
        before = [i for i in occurrences(text, text[-n:]) if n <= len(text) and i < len(text)]
        if before:
            expected = text[before[-1] :]
            break
    assert [guess.token for guess in index.guesses()] == expected


@pytest.mark.parametrize("text", [[1] * 20_000, [1, 2] * 10_000, list(range(20_000))], ids=["a", "ab", "new"])
def test_no_text_makes_the_automaton_slow(text):
    """A tree of all suffixes would take 200 million steps for the first of them."""
    began_s = time.process_time()
    index = SuffixAutomaton()
    index.extend(text)
    list(islice(index.guesses(), 16))
    assert time.process_time() - began_s < 5.0


def test_recent_answers_are_found_and_end_where_they_end():
    recent = RecentAnswers(100)
    recent.add([5, 6, 7, 8, 9])
    recent.add([1, 2, 3])
    index = RememberingIndex(recent)
    index.extend([40, 5, 6, 7])
    assert [guess.token for guess in index.guesses()] == [8, 9]
    index.extend([8, 9])
    assert SEPARATOR not in [guess.token for guess in index.guesses()]
    assert 1 not in [guess.token for guess in index.guesses()]


def test_the_longer_match_guesses():
    recent = RecentAnswers(100)
    recent.add([1, 2, 3, 4])
    index = RememberingIndex(recent)
    index.extend([2, 3, 9, 9, 1, 2, 3])
    assert next(index.guesses()).token == 4  # 1 2 3 there, 2 3 here
    index.extend([9, 9, 1, 2, 3])
    assert next(index.guesses()).token == 9  # 3 9 9 1 2 3 here


def test_recent_answers_are_bounded_and_the_oldest_go():
    recent = RecentAnswers(40)
    for start in range(0, 1000, 10):
        recent.add(range(start, start + 10))
    assert len(recent.younger) + len(recent.older) <= 40
    index = RememberingIndex(recent)
    index.extend([990, 991, 992])
    assert next(index.guesses()).token == 993
    index = RememberingIndex(recent)
    index.extend([0, 1, 2])
    assert list(index.guesses()) == []
