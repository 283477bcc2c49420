"""Packing of blocks, and what is refused before a batch is judged."""

import numpy as np
import pytest

from adasd.errors import InvalidRequest
from adasd.rounds import BLOCK, AcceptanceRule, DraftDistributions, SamplingTransform
from adasd.specdec.blocks import BlockBatch, check_block

SAMPLED, SEEDED, GREEDY = SamplingTransform(), SamplingTransform(seed=1), SamplingTransform(temperature=0.0)
RELAXED = AcceptanceRule("fsd", {"max_distance": 0.3}, 1)


def rows(ids, probs):
    return DraftDistributions(np.array(ids, np.int32), np.log(np.array(probs, np.float32)))


TWO = rows([[4, 2, 7], [1, 2, 3]], [[0.5, 0.25, 0.125], [0.5, 0.25, 0.125]])


def test_blocks_and_rows_are_padded_to_the_longest():
    one = rows([[8]], [[1.0]])
    batch = BlockBatch.pack([(4, 1), (), (8,), (5,)], [TWO, one, one, None])
    assert batch.tokens_BK.tolist() == [[4, 1], [0, 0], [8, 0], [5, 0]]
    assert batch.lens_B.tolist() == list(batch.lens) == [2, 0, 1, 1]
    assert batch.has_distributions == (True, False, True, False)
    assert batch.top_ids_BKR[2].tolist() == [[8, 0, 0], [0, 0, 0]]
    assert batch.top_logprobs_BKR[2].exp().tolist() == [[1, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(batch.top_ids_BKR[0].numpy(), TWO.ids)


def test_empty_blocks_pack_to_nothing():
    batch = BlockBatch.pack([(), ()], [None, None])
    assert batch.tokens_BK.shape == (2, 0)
    assert batch.top_ids_BKR.shape == (2, 0, 0)


@pytest.mark.parametrize(
    ("transform", "block", "distributions", "rule"),
    [
        (SAMPLED, (4, 1), TWO, RELAXED),
        (SAMPLED, (), None, RELAXED),
        (SEEDED, (4, 9), TWO, AcceptanceRule()),
        (SEEDED, (4, 9), None, AcceptanceRule()),
        (GREEDY, (4, 9), None, AcceptanceRule()),
    ],
)
def test_sound_blocks_pass(transform, block, distributions, rule):
    check_block(transform, block, distributions, rule, vocab_size=10)


@pytest.mark.parametrize(
    ("transform", "block", "distributions", "rule", "message"),
    [
        (GREEDY, (4, 10), None, AcceptanceRule(), "token 10 is outside the target's 10 ids"),
        (GREEDY, (-1,), None, AcceptanceRule(), "token -1"),
        (SAMPLED, (4,), None, AcceptanceRule(), "without draft rows"),
        (GREEDY, (4,), None, RELAXED, "without draft rows"),
        (SEEDED, (4,), None, AcceptanceRule(want_distances=True), "without draft rows"),
        (GREEDY, (4,), TWO, AcceptanceRule(), "do not fit a block of 1"),
        (GREEDY, (4,), rows([[]], [[]]), AcceptanceRule(), "do not fit"),
        (GREEDY, (4,), rows([[10]], [[1.0]]), AcceptanceRule(), "outside the target's"),
        (GREEDY, (4,), rows([[3]], [[1.5]]), AcceptanceRule(), "positive or no number"),
        (GREEDY, (4,), rows([[3]], [[np.nan]]), AcceptanceRule(), "positive or no number"),
        (SAMPLED, (4, 9), TWO, AcceptanceRule(), "missing from its own row"),
        (GREEDY, (), None, AcceptanceRule(BLOCK), "rejection sampling"),
        (GREEDY, (), None, AcceptanceRule("adasd", {"chances": (0.5,), "min_ratio": 0.0}), "has 1 entries"),
        (GREEDY, (), None, AcceptanceRule("adasd", {"chances": 0.5, "min_ratio": 0.0}), "has 1 entries"),
        (GREEDY, (), None, AcceptanceRule("collision", {"ratio": (0.5, 0.5)}), "has 2 entries"),
        (GREEDY, (), None, AcceptanceRule("collision", {"ratio": -0.5}), "not within 0 to inf"),
        (GREEDY, (), None, AcceptanceRule("collision", {"ratio": np.nan}), "not within 0 to inf"),
        (GREEDY, (), None, AcceptanceRule("collision", {"ratios": 0.5}), r"takes the parameters \['ratio'\]"),
        (GREEDY, (), None, AcceptanceRule("colision", {"ratio": 0.5}), "known: adasd, adasd-v1, collision"),
        (GREEDY, (), None, AcceptanceRule(max_distortion=-1.0), "max_distortion"),
        (GREEDY, (), None, AcceptanceRule(max_distortion=np.nan), "max_distortion"),
    ],
)
def test_unsound_blocks_are_refused(transform, block, distributions, rule, message):
    with pytest.raises(InvalidRequest, match=message):
        check_block(transform, block, distributions, rule, vocab_size=10)
