"""How sequences are grouped for attention: in place if their slots adjoin, else gathered."""

import pytest
import torch

from adasd.engine.cache.prefix_cache import PrefixCache
from adasd.engine.forward import batch
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.work import StepInput
from adasd.rounds import OpenCall, VerifyCall
from adasd.testing.loops import GREEDY, run_until_idle, verify
from tests.unit.engine.models import engine, generate, prompts

CPU = torch.device("cpu")


def build(*rows):
    return ForwardBatch(sorted(rows, key=lambda row: row.attention_order), PrefixCache(100, 100), CPU)


def test_one_session_decoding_needs_neither_mask_nor_padding():
    (group,) = build(StepInput(3, 7, (5,), 1)).groups
    assert group.slots == slice(3, 4)
    assert group.longest == 8
    assert (group.pad, group.mask(1, None, torch.float32)) == (None, None)


def test_a_window_masks_what_lies_before_it():
    (group,) = build(StepInput(3, 7, (5,), 1)).groups
    mask = group.mask(2, 3, torch.float32)
    assert mask.shape == (1, 1, 2, 8)
    assert mask[0, 0].isfinite().tolist() == [[False] * 5 + [True] * 3] * 2
    assert group.mask(2, 8, torch.float32) is None


def test_rows_of_like_length_share_a_group_and_long_ones_stand_alone():
    batch = build(
        StepInput(0, 4, (1,), 1),
        StepInput(2, 9, (1,), 1),
        StepInput(1, 0, (1, 2, 3), 1),
        StepInput(3, 0, tuple(range(50)), 0),
    )
    assert [(group.num_sequences, group.width) for group in batch.groups] == [(3, 1), (1, 3), (1, 50)]
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


def test_rows_far_apart_have_a_call_each():
    batch = build(StepInput(0, 4, (1,), 1), StepInput(1, 4, (1,), 1), StepInput(90, 4, (1,), 1))
    assert [group.slots for group in batch.groups] == [slice(0, 2), slice(90, 91)]
    assert [(group.first, group.last) for group in batch.groups] == [(0, 2), (2, 3)]


def test_rows_of_unlike_length_have_a_call_each():
    rows = [StepInput(slot, 1000 if slot == 1 else 10, (1,), 1) for slot in range(4)]
    assert [group.longest for group in ForwardBatch(rows, PrefixCache(4, 2000), CPU).groups] == [11, 1001, 11]


def test_where_rows_are_gathered_one_call_serves_those_far_apart(monkeypatch):
    monkeypatch.setattr(batch, "gathers", lambda device: True)
    (group,) = build(StepInput(0, 4, (1,), 1), StepInput(9, 4, (1,), 1)).groups
    assert group.slots.tolist() == [0, 9]
    assert group.pad is None


@pytest.mark.parametrize("gathers", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_rows_far_apart_answer_as_neighbours_do(monkeypatch, gathers, fast):
    monkeypatch.setattr(batch, "gathers", lambda device: gathers)
    e = engine("llama", num_slots=400, fast=fast)
    texts = dict(zip((0, 1, 5, 290, 399), prompts(9, 30, 30, 5, 1), strict=True))
    for row, text in texts.items():
        e.open(OpenCall(str(row), GREEDY, 60))
        e._slots.layout._num_used = row
        verify(e, VerifyCall(str(row), 0, 0, text))
    answers = {row: generate("llama", text, 4) for row, text in texts.items()}
    for row, answer in answers.items():
        block = tuple(answer[1:3]) if row != 5 else ()
        e.submit(VerifyCall(str(row), 1, e.cached_len(str(row)), (answer[0],), block))
    for verdict in run_until_idle(e):
        answer = answers[int(verdict.session)]
        assert verdict.next_token == answer[1 if verdict.session == "5" else 3]


def test_places_in_the_cache_follow_slot_and_position():
    batch = build(StepInput(2, 5, (7, 8), 2))
    assert [where.tolist() for where in batch.where_T] == [[205, 206]]
    assert batch.positions_T.tolist() == [5, 6]
    assert batch.wanted is None
