"""How much memory a pass takes beside weights and cache, measured by running the largest one."""

from __future__ import annotations

import torch

from adasd.engine.cache.pages import Pages
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.protocol import Forward
from adasd.engine.loading.sizing import CUDA_PAGE, DeviceMemory
from adasd.engine.work import StepInput

MAX_POSITIONS = 256
"""Positions whose logits one pass is profiled with."""

CONTEXT_BYTES = 2**29
"""A CUDA context and the libraries' own memory, which torch does not count."""

RECORDED = 1.25
"""Recorded passes keep their memory, beside that of eager ones. A guess: unmeasured."""


def profile(forward: Forward, num_tokens: int, max_context: int) -> DeviceMemory:
    """Memory of the forward pass's CUDA device, with the peak of a pass over ``num_tokens`` tokens of prompts.

    No prompt is longer than ``max_context``: the model knows no positions behind it.
    """
    device = forward.device
    length = min(num_tokens, max_context)
    num_slots, pages_each = -(-num_tokens // length), -(-length // CUDA_PAGE)
    layout = Pages(num_slots, length, CUDA_PAGE, num_slots * pages_each)
    cache = forward.make_cache(layout)
    inputs = []
    for begin in range(0, num_tokens, length):
        slot, num = layout.allocate((), ()).slot, min(length, num_tokens - begin)
        layout.extend(slot, 0, num)
        num_logits = 0 if begin else min(num, MAX_POSITIONS)
        inputs.append(StepInput(slot, 0, (0,) * num, num_logits))
    inputs.sort(key=lambda one: one.attention_order)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with torch.inference_mode():
        logits = forward(ForwardBatch(inputs, layout, device), cache)
        torch.softmax(logits.float(), dim=-1).argmax(dim=-1)  # as sampling does
    torch.cuda.synchronize(device)
    peak = int(RECORDED * (torch.cuda.max_memory_allocated(device) - before))
    del cache, logits
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return DeviceMemory(total, free, torch.cuda.memory_reserved(device) + CONTEXT_BYTES, peak)
