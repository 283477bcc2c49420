"""How rows are grouped for attention: in place where slots are dense, gathered where they are not."""

import torch

from adasd.engine.ragged import Ragged, Row

CPU = torch.device("cpu")


def build(*rows):
    return Ragged.build(sorted(rows, key=lambda row: row.attention_order), 100, CPU)


def test_one_session_decoding_needs_neither_mask_nor_padding():
    (group,) = build(Row(3, 7, (5,), 1)).groups
    assert group.slots == slice(3, 4)
    assert group.longest == 8
    assert (group.pad, group.mask(1, None, torch.float32)) == (None, None)


def test_a_window_masks_what_lies_before_it():
    (group,) = build(Row(3, 7, (5,), 1)).groups
    mask = group.mask(2, 3, torch.float32)
    assert mask.shape == (1, 1, 2, 8)
    assert mask[0, 0].isfinite().tolist() == [[False] * 5 + [True] * 3] * 2
    assert group.mask(2, 8, torch.float32) is None


def test_rows_of_like_length_share_a_group_and_long_ones_stand_alone():
    batch = build(
        Row(0, 4, (1,), 1), Row(2, 9, (1,), 1), Row(1, 0, (1, 2, 3), 1), Row(3, 0, tuple(range(50)), 0)
    )
    assert [(group.num_rows, group.width) for group in batch.groups] == [(3, 1), (1, 3), (1, 50)]
    decoding, verifying, prefill = batch.groups
    assert decoding.slots == slice(0, 3), "read in place, the row between idles"
    assert decoding.unpad.tolist() == [0, 2]
    assert verifying.mask(1, None, torch.float32)[0, 0].isfinite().tolist() == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    assert prefill.longest == 50
    assert batch.wanted.tolist() == [0, 1, 4]


def test_slots_far_apart_are_gathered():
    (group,) = build(Row(0, 4, (1,), 1), Row(9, 4, (1,), 1)).groups
    assert group.slots.tolist() == [0, 9]
    assert group.pad is None


def test_places_in_the_cache_follow_slot_and_position():
    batch = build(Row(2, 5, (7, 8), 2))
    assert batch.where_T.tolist() == [205, 206]
    assert batch.positions_T.tolist() == [5, 6]
    assert batch.wanted is None
