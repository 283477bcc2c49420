"""Every pass that may be recorded, run with fake CUDA tensors: nothing waits for the device, no tensor lies elsewhere.

``FakeTensorMode`` knows shapes and devices and no values, so whatever needs a value on the host raises an error.
"""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.pages import Pages
from adasd.engine.forward import paged_attention
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.drafting_loop import DraftingLoop
from adasd.engine.forward.fast_llama import FastLlama
from adasd.engine.forward.modules import ModuleForward
from adasd.engine.forward.padded import Padded
from adasd.engine.work import StepInput
from tests.unit.engine.models import VOCAB_SIZE, original

pytestmark = pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")

CUDA, MAX_CONTEXT = torch.device("cuda", 0), 160


@contextlib.contextmanager
def fake_card(monkeypatch):
    """CUDA tensors without values, on a card that FlashAttention serves.

    On a CPU build of torch a few functions ask for a driver before the mode sees them; those only check devices here.
    """

    def same_device(first, *given, **named):
        devices = {each.device for each in (first, *given, *named.values()) if isinstance(each, torch.Tensor)}
        if len(devices) > 1:
            raise RuntimeError(f"expected all tensors on one device, found {devices}")
        return first

    real = torch.zeros
    monkeypatch.setattr(paged_attention, "_is_recent", lambda device: True)
    monkeypatch.setattr(
        Padded, "fill", lambda self, inputs: None
    )  # the host's part, before a recording is replayed
    monkeypatch.setattr(torch, "zeros", lambda *args, pin_memory=False, **kwargs: real(*args, **kwargs))
    tensor = torch.tensor

    def tensor_there(data, *, device=None, **kwargs):
        made = tensor(data, **kwargs)
        return made if device is None else made.to(device)

    monkeypatch.setattr(torch, "tensor", tensor_there)
    monkeypatch.setattr(F, "scaled_dot_product_attention", same_device)
    for method in ("copy_", "index_copy_"):
        monkeypatch.setattr(torch.Tensor, method, same_device)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        yield


def moved(model, dtype):
    """The model with fake weights on the fake card."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                weight = torch.empty(parameter.shape, dtype=dtype, device=CUDA)
                module._parameters[name] = nn.Parameter(weight, requires_grad=False)
        for name, buffer in module._buffers.items():
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA)
    return model


def paged(forward, num_slots=4):
    layout = Pages(num_slots, MAX_CONTEXT, 256, num_slots)
    for n in range(num_slots):
        layout.extend(layout.allocate((), ()).slot, 0, 40 * n + 20)
    return KVCache(forward.layers, layout, forward.dtype, CUDA)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("name", "make"), [("llama", FastLlama), ("qwen3", FastLlama), ("mistral-window", None)]
)
def test_passes_of_every_size_and_greedy_turns_never_wait_for_the_device(monkeypatch, name, make, dtype):
    model = copy.deepcopy(original(name))
    with fake_card(monkeypatch):
        forward = make(moved(model, dtype), MAX_CONTEXT) if make else ModuleForward(moved(model, dtype))
        cache = paged(forward)
        for num_tokens in (1, 8, 256):
            step = Padded(num_tokens, cache)
            logits_TV = forward(step, cache)
            assert logits_TV.shape == (num_tokens, VOCAB_SIZE)
            assert logits_TV.device == CUDA
            if num_tokens <= 8:
                DraftingLoop(step).decide_greedily(logits_TV)


def test_a_pass_that_waits_or_mixes_devices_would_be_noticed(monkeypatch):
    model = copy.deepcopy(original("llama"))
    with fake_card(monkeypatch):
        forward = FastLlama(moved(model, torch.bfloat16), MAX_CONTEXT)
        cache = paged(forward)
        logits = forward(ForwardBatch([StepInput(1, 0, (1, 2), 1)], cache.layout, CUDA), cache)
        with pytest.raises(DataDependentOutputException):
            logits.sum().item()
        with pytest.raises(RuntimeError, match="device"):
            logits + torch.zeros(logits.shape)
        with pytest.raises(RuntimeError, match="one device"):
            logits.copy_(torch.zeros(logits.shape))
