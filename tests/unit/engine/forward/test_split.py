"""A model split over devices answers as the whole one. Here the devices are one CPU, or a CPU and "meta".

Meta tensors have shapes and no values, and torch refuses to mix them with others. So a pass that reaches the return
of the logits has moved every tensor on the way.
"""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from adasd.config import EngineConfig
from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.prefix_cache import PrefixCache
from adasd.engine.engine import TorchEngine
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.modules import ModuleForward
from adasd.engine.forward.split import shares, split
from adasd.engine.loading.limits import resolve_devices
from adasd.engine.work import StepInput
from adasd.errors import ConfigError
from adasd.testing.loops import plain_batch
from tests.unit.engine.models import FAST, MODULES_ONLY, VOCAB_SIZE, generate, original, prompts

CPU, META = torch.device("cpu"), torch.device("meta")


def by_hand(costs, first, last, num_devices) -> float:
    """Cost of the most loaded device in the best split, by trying all splits."""
    best = float("inf")
    for cuts in itertools.combinations(range(1, len(costs)), num_devices - 1):
        borders = [0, *cuts, len(costs)]
        loads = [sum(costs[a:b]) for a, b in itertools.pairwise(borders)]
        loads[0] += first
        loads[-1] += last
        best = min(best, max(loads))
    return best


@pytest.mark.parametrize("num_devices", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("costs", "first", "last"),
    [([1.0] * 8, 0.0, 0.0), ([1.0] * 8, 3.0, 2.0), ([5.0, 1.0, 1.0, 1.0, 4.0, 2.0], 1.0, 6.0)],
)
def test_the_dearest_device_is_as_cheap_as_can_be(costs, first, last, num_devices):
    places = shares(costs, first, last, num_devices)
    assert places == sorted(places)
    assert set(places) == set(range(num_devices))
    loads = [sum(c for c, p in zip(costs, places, strict=True) if p == d) for d in range(num_devices)]
    loads[0] += first
    loads[-1] += last
    assert max(loads) == by_hand(costs, first, last, num_devices)


def test_more_devices_than_layers_are_refused():
    with pytest.raises(ValueError, match="2 layers cannot be shared by 3 devices"):
        shares([1.0, 1.0], 0.0, 0.0, 3)
    with pytest.raises(ConfigError, match="lower num_devices"):
        split(copy.deepcopy(original("llama")), [CPU] * 3)


@pytest.mark.parametrize("name", FAST + MODULES_ONLY)
def test_greedy_answers_are_generate_s(name):
    model = split(copy.deepcopy(original(name)), [CPU, CPU])
    engine = TorchEngine.from_model(model, EngineConfig("tiny", num_slots=8, prefill_chunk=40), seed=0)
    assert isinstance(engine.forward, ModuleForward)
    batch = prompts(3, 50, 1)
    assert plain_batch(engine, batch, 8) == [generate(name, prompt, 8) for prompt in batch]


@pytest.mark.parametrize("name", FAST + MODULES_ONLY)
def test_everything_that_a_pass_needs_is_where_its_layer_is(name):
    model = split(copy.deepcopy(original(name)), [CPU, META])
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        model(input_ids=torch.arange(5)[None] % VOCAB_SIZE, use_cache=False)


def test_no_device_ever_gets_the_whole_model(monkeypatch):
    model = copy.deepcopy(original("llama"))
    monkeypatch.setattr(type(model), "to", None)
    monkeypatch.setattr(type(model.model), "to", None)
    placed = split(model, [CPU, META])
    assert {p.device for p in placed.model.layers[0].parameters()} == {CPU}
    assert {p.device for p in placed.model.layers[1].parameters()} == {META}


def test_a_pass_and_its_masks_are_copied_once_per_device():
    rows = [StepInput(0, 3, (1,), 1), StepInput(2, 0, (1, 2, 3), 1)]
    batch = ForwardBatch(rows, PrefixCache(3, 16), CPU)
    there = batch.on(META)
    assert batch.on(CPU) is batch
    assert batch.on(META) is there
    tensors = [there.ids_T, there.positions_T, there.where_T, there.wanted]
    for group in there.groups:
        tensors += [group.positions_RN, group.pad, group.unpad, group.mask(1, None, torch.float32)]
    assert {tensor.device for tensor in tensors if tensor is not None} == {META}


def test_the_cache_of_a_layer_lies_where_the_layer_does():
    model = split(copy.deepcopy(original("llama")), [CPU, CPU])
    forward = ModuleForward(model)
    assert [layer.device for layer in forward.layers] == [CPU, CPU]
    cache = KVCache(forward.layers, PrefixCache(2, 8), torch.float32, META)
    assert [tensor.device for tensor in cache.tokens] == [CPU, CPU]


def test_several_devices_are_cuda_devices_that_are_here():
    assert resolve_devices(EngineConfig("m", device="cpu")) == [CPU]
    with pytest.raises(ConfigError, match="num_devices is 2, but device 'cpu' stands for 0"):
        resolve_devices(EngineConfig("m", device="cpu", num_devices=2))
