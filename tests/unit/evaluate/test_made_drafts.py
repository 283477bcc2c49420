"""Drafts made from a target: maps in closed form, and counts by hand."""

import pytest
import torch

from adasd.config import EngineConfig
from adasd.engine.loading.model import load_model
from adasd.evaluate.collect import ModelSource, Text
from adasd.evaluate.made_drafts import CountModel, CountSource, first_layers, fitted, normed, outer_layers
from cluster.data import DEMO

TEXTS = [((1, 2, 3), (4, 5, 6, 7)), ((5, 6), (7, 8, 9))] * 3


def target():
    return load_model(EngineConfig(str(DEMO / "target"), dtype="float32"))


def test_a_map_of_exact_data_is_found():
    generator = torch.Generator().manual_seed(0)
    x_ND, map_DD = torch.randn(4000, 5, generator=generator), torch.randn(5, 5, generator=generator)
    assert torch.allclose(fitted(x_ND, normed(x_ND) @ map_DD), map_DD, rtol=0.02, atol=0.02)


@torch.inference_mode()
def test_all_layers_with_nothing_left_out_are_the_target():
    """Nothing is missing in the middle, so the map adds nothing."""
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    whole = target()
    made = outer_layers(target(), 4, 2, TEXTS)
    assert torch.allclose(made(ids).logits, whole(ids).logits, atol=1e-3)


@pytest.mark.parametrize(
    "make", [lambda: first_layers(target(), 2, TEXTS), lambda: outer_layers(target(), 2, 1, TEXTS)]
)
@torch.inference_mode()
def test_what_is_left_drafts_alike_with_and_without_a_cache(make):
    made, ids = make(), torch.tensor([[1, 2, 3, 4, 5]])
    out = made(ids[:, :3], use_cache=True)
    after = made(ids[:, 3:], past_key_values=out.past_key_values, use_cache=True)
    assert torch.allclose(after.logits, made(ids).logits[:, 3:], atol=1e-4)
    text = Text("words", (1, 2), 1.0, (3, 4, 5, 6), 4, 4, torch.zeros(4, made.config.vocab_size))
    trace = ModelSource(made).trace(text, torch.Generator().manual_seed(0))
    assert len(trace.signals) == len(trace.accepted) == 4


def test_counts_are_smoothed_by_hand():
    counts = CountModel(4, order=2)
    counts.read([0, 1, 0, 2, 0, 1])
    # unigrams: 0 three times, 1 twice, 2 once; three kinds: (count + 3 / 4) / 9
    single = torch.tensor([3.75, 2.75, 1.75, 0.75]) / 9
    assert torch.allclose(counts.probs([]), single)
    # behind 0: 1 twice, 2 once; two kinds
    assert torch.allclose(counts.probs([3, 0]), (torch.tensor([0.0, 2.0, 1.0, 0.0]) + 2 * single) / 5)
    assert torch.allclose(counts.probs([3]), single)
    assert float(counts.probs([3, 0]).sum()) == pytest.approx(1.0)


def test_a_count_model_goes_on_by_itself_after_a_rejection():
    counts = CountModel(4, order=2)
    counts.read([0, 1, 2, 3] * 9)
    text = Text("words", (0,), 0.0, (1, 2, 2, 3), 4, 4, torch.zeros(4, 4))
    trace = CountSource(counts).trace(text, torch.Generator())
    assert trace.accepted == (True, True, False, True)
    assert {at: len(signals) for at, signals in trace.off_path.items()} == {2: 16}
