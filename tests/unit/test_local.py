"""The in-process pair over table models: no torch model, the service's runner and session."""

from __future__ import annotations

import pytest

from adasd import LocalPair
from adasd.errors import ContextTooLong, InvalidRequest
from adasd.testing.fake_engine import FakeEngine
from adasd.testing.table_model import TableModel

TARGET = TableModel.random(16, seed=3)


def pair(*, with_draft: bool = True) -> LocalPair:
    draft = FakeEngine(TARGET.disturbed(1.0)) if with_draft else None
    return LocalPair(FakeEngine(TARGET), draft, lambda token_ids: "." * len(token_ids), frozenset())


def test_exact_answers_are_the_targets_own_and_both_slots_are_free_after():
    made = pair()
    answer = made.generate((1, 2, 3), max_tokens=40)
    assert list(answer.token_ids) == TARGET.greedy([1, 2, 3], 40)
    assert answer.report.num_accepted_tokens > 0
    assert made.target.num_free_slots == made.target.num_slots
    assert made.draft.num_free_slots == made.draft.num_slots


def test_without_a_draft_it_decodes_plainly():
    assert list(pair(with_draft=False).generate((1,), max_tokens=9).token_ids) == TARGET.greedy([1], 9)


def test_what_cannot_be_had_is_refused_with_what_can():
    made = pair()
    with pytest.raises(InvalidRequest, match="mode is 'fast'; possible are off, exact, adaptive"):
        made.generate((1,), mode="fast")
    with pytest.raises(InvalidRequest, match="no tokens"):
        made.generate(())
    with pytest.raises(
        ContextTooLong, match=r"length is 256 tokens.* 1003 tokens \(3 in the prompt, 1000 in"
    ):
        made.generate((1, 2, 3), max_tokens=1000)
