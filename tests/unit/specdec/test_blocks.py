"""Packing of blocks, and what is refused before a batch is judged."""

import numpy as np
import pytest

from adasd.errors import InvalidRequest
from adasd.rounds import AcceptRule, DraftDistributions, RelaxBelow, RelaxTable, SamplingTransform
from adasd.specdec.blocks import BlockBatch, RuleBatch, check_block

SAMPLED, SEEDED, GREEDY = SamplingTransform(), SamplingTransform(seed=1), SamplingTransform(temperature=0.0)
RELAXED = AcceptRule(relax=RelaxBelow(0.3), relax_budget=1)


def rows(ids, probs):
    return DraftDistributions(np.array(ids, np.int32), np.log(np.array(probs, np.float32)))


TWO = rows([[4, 2, 7], [1, 2, 3]], [[0.5, 0.25, 0.125], [0.5, 0.25, 0.125]])


def test_blocks_and_rows_are_padded_to_the_longest():
    one = rows([[8]], [[1.0]])
    batch = BlockBatch.pack([(4, 1), (), (8,), (5,)], [TWO, one, one, None])
    assert batch.tokens_BK.tolist() == [[4, 1], [0, 0], [8, 0], [5, 0]]
    assert batch.lens_B.tolist() == list(batch.lens) == [2, 0, 1, 1]
    assert batch.has_rows == (True, False, True, False)
    assert batch.row_ids_BKR[2].tolist() == [[8, 0, 0], [0, 0, 0]]
    assert batch.row_logprobs_BKR[2].exp().tolist() == [[1, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(batch.row_ids_BKR[0].numpy(), TWO.ids)


def test_empty_blocks_pack_to_nothing():
    batch = BlockBatch.pack([(), ()], [None, None])
    assert batch.tokens_BK.shape == (2, 0)
    assert batch.row_ids_BKR.shape == (2, 0, 0)


def test_rules_pack_without_a_budget_where_nothing_is_relaxed():
    table = RelaxTable((1.0,) * 256)
    batch = RuleBatch.pack(
        [AcceptRule(relax_budget=5), RELAXED, AcceptRule(relax=table, relax_budget=2)], "cpu"
    )
    assert batch.budget_B.tolist() == [0, 1, 2]
    assert batch.max_distance_B.tolist() == pytest.approx([-1.0, 0.3, -1.0])
    assert batch.accept_prob_BT.sum(1).tolist() == [0.0, 0.0, 256.0]
    assert batch.draws
    assert not RuleBatch.pack([RELAXED]).draws


@pytest.mark.parametrize(
    ("transform", "block", "laws", "rule"),
    [
        (SAMPLED, (4, 1), TWO, RELAXED),
        (SAMPLED, (), None, RELAXED),
        (SEEDED, (4, 9), TWO, AcceptRule()),
        (SEEDED, (4, 9), None, AcceptRule()),
        (GREEDY, (4, 9), None, AcceptRule()),
    ],
)
def test_sound_blocks_pass(transform, block, laws, rule):
    check_block(transform, block, laws, rule, vocab_size=10)


@pytest.mark.parametrize(
    ("transform", "block", "laws", "rule", "message"),
    [
        (GREEDY, (4, 10), None, AcceptRule(), "token 10 is outside the target's 10 ids"),
        (GREEDY, (-1,), None, AcceptRule(), "token -1"),
        (SAMPLED, (4,), None, AcceptRule(), "without draft rows"),
        (GREEDY, (4,), None, RELAXED, "without draft rows"),
        (SEEDED, (4,), None, AcceptRule(want_distances=True), "without draft rows"),
        (GREEDY, (4,), TWO, AcceptRule(), "do not fit a block of 1"),
        (GREEDY, (4,), rows([[]], [[]]), AcceptRule(), "do not fit"),
        (GREEDY, (4,), rows([[10]], [[1.0]]), AcceptRule(), "outside the target's"),
        (GREEDY, (4,), rows([[3]], [[1.5]]), AcceptRule(), "positive or no number"),
        (GREEDY, (4,), rows([[3]], [[np.nan]]), AcceptRule(), "positive or no number"),
        (SAMPLED, (4, 9), TWO, AcceptRule(), "missing from its own row"),
        (GREEDY, (), None, AcceptRule(relax=RelaxTable((0.5,))), "256 bins, not 1"),
    ],
)
def test_unsound_blocks_are_refused(transform, block, laws, rule, message):
    with pytest.raises(InvalidRequest, match=message):
        check_block(transform, block, laws, rule, vocab_size=10)
