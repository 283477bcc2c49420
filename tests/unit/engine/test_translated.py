"""A draft with another vocabulary: the answer is the target's own, and blocks come in the target's ids."""

from __future__ import annotations

import logging

import pytest

from adasd import LocalPair
from adasd.config import SpeculationConfig
from adasd.engine.translated import TranslatedDraft
from adasd.errors import InvalidRequest, StaleCache
from adasd.requests import Mode, SamplingParams, SpeculationOptions
from adasd.rounds import DraftCall, OpenCall, SamplingTransform, StopRule
from adasd.testing.fake_engine import FakeEngine
from adasd.testing.loops import GREEDY, draft
from adasd.testing.table_model import TableModel
from adasd.text.tokenizer import Tokenizer
from adasd.text.translation import Translation
from tests import pairs

SIZE = 16
TARGET = TableModel.random(SIZE, seed=3)


def translated(
    *, shift: int = 5, lost: frozenset[int] = frozenset(), doubled: int | None = None
) -> TranslatedDraft:
    """A draft whose ids are the target's, shifted; ``lost`` ids of the draft mean nothing to the target.

    The target's id ``doubled`` is two tokens there.
    """

    def there(token: int) -> tuple[int, ...]:
        return ((token + shift) % SIZE,) * (2 if token == doubled else 1)

    def back(token: int) -> int | None:
        return None if token in lost else (token - shift) % SIZE

    return TranslatedDraft(FakeEngine(TARGET.disturbed(0.5), num_slots=4), there, back, SIZE)


def pair(engine: TranslatedDraft) -> LocalPair:
    speculation = SpeculationConfig(drafting="static", bypass=False)
    return LocalPair(FakeEngine(TARGET), engine, lambda ids: "." * len(ids), frozenset(), speculation)


@pytest.mark.parametrize(
    "engine", [translated(), translated(lost=frozenset({1, 7})), translated(doubled=4), translated(shift=0)]
)
@pytest.mark.parametrize("seed", [None, 7])
def test_greedy_and_seeded_answers_are_the_targets_own(engine, seed):
    sampling = SamplingParams(60, 0.0 if seed is None else 0.9, seed=seed)
    answer = pair(engine).generate((1, 2, 3), sampling=sampling)
    alone = LocalPair(FakeEngine(TARGET), None, lambda ids: "." * len(ids), frozenset())
    assert answer.token_ids == alone.generate((1, 2, 3), sampling=sampling).token_ids
    assert answer.report.num_draft_tokens > 0
    engine.check_integrity()
    assert engine.num_free_slots == engine.num_slots


def test_a_draft_that_agrees_but_for_its_ids_is_accepted():
    engine = TranslatedDraft(
        FakeEngine(TARGET, num_slots=4), lambda token: (token,), lambda token: token, SIZE
    )
    report = pair(engine).generate((1, 2, 3), max_tokens=40).report
    assert report.num_accepted_tokens == report.num_draft_tokens > 0


def test_requests_that_need_probabilities_get_no_draft():
    engine = translated()
    answer = pair(engine).generate((1, 2, 3), max_tokens=20, temperature=1.0)
    assert answer.report.num_draft_tokens == 0
    with pytest.raises(InvalidRequest, match="greedy and seeded requests only"):
        engine.open(OpenCall("s", SamplingTransform(temperature=1.0), 50))
    engine.open(OpenCall("s", GREEDY, 50))
    with pytest.raises(InvalidRequest, match="no probabilities"):
        engine.submit(DraftCall("s", 0, 0, (1,), StopRule(2, row_len=4)))


def test_in_mode_adaptive_it_is_left_out_once_and_not_lost(caplog):
    caplog.set_level(logging.INFO, "adasd.session")
    adaptive = SpeculationOptions(Mode.ADAPTIVE, "static")
    answer = pair(translated()).generate((1, 2, 3), max_tokens=20, speculation=adaptive)
    assert list(answer.token_ids) == TARGET.greedy([1, 2, 3], 20)
    said = [record.getMessage() for record in caplog.records]
    assert [sentence.split(":")[0].partition(" gets ")[2] for sentence in said] == ["no draft"]


def test_the_cache_is_counted_in_the_targets_tokens():
    engine = translated(doubled=4)
    engine.open(OpenCall("s", GREEDY, 50))
    block = draft(engine, DraftCall("s", 0, 0, (4, 4, 9), StopRule(3)))
    assert (block.base_len, len(block.tokens)) == (3, 3)
    assert engine.cached_len("s") == 5
    assert engine.inner.cached_len("s") == 2 * 2 + 1 + 2
    again = draft(engine, DraftCall("s", 1, 3, (block.tokens[0],), StopRule(2)))
    assert again.tokens == block.tokens[1:]
    with pytest.raises(StaleCache):
        engine.submit(DraftCall("s", 2, 30, (1,), StopRule(2)))


def test_a_block_ends_before_the_first_token_that_the_target_does_not_have():
    free = draft_of(translated())
    lost = (free[2] + 5) % SIZE
    assert draft_of(translated(lost=frozenset({lost}))) == free[: free.index(free[2])]


def draft_of(engine: TranslatedDraft) -> tuple[int, ...]:
    engine.open(OpenCall("s", GREEDY, 50))
    return draft(engine, DraftCall("s", 0, 0, (1, 2, 3), StopRule(6))).tokens


def test_tokens_meet_by_their_bytes_and_others_by_their_text():
    ours, its = pairs.tokenizer(), pairs.tokenizer()
    its.add_tokens(["<|more|>"])
    ours.add_tokens(["<|less|>", "<|more|>"])
    translation = Translation(Tokenizer(ours), Tokenizer(its))
    (word,) = ours.encode("a", add_special_tokens=False)
    assert translation.to_draft(word) == (word,)
    assert translation.to_target(its.convert_tokens_to_ids("<|more|>")) == ours.convert_tokens_to_ids(
        "<|more|>"
    )
    spelt = translation.to_draft(ours.convert_tokens_to_ids("<|less|>"))
    assert its.decode(spelt) == "<|less|>"
    assert translation.num_shared == len(its.get_vocab())
