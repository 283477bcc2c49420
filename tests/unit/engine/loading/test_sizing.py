"""How many pages: from given bytes, from a card's memory by arithmetic, or full slots."""

import dataclasses

import pytest
import torch

from adasd.config import EngineConfig
from adasd.engine.cache.layers import CacheNeeds
from adasd.engine.cache.pages import Pages
from adasd.engine.cache.prefix_cache import PrefixCache
from adasd.engine.loading import sizing
from adasd.engine.loading.profile import CONTEXT_BYTES, profile
from adasd.engine.loading.sizing import CUDA_PAGE, DeviceMemory, cuda_budget, make_layout
from adasd.errors import ConfigError
from tests.unit.engine.models import engine

GB, CPU, CUDA = 10**9, torch.device("cpu"), torch.device("cuda", 0)
PER_TOKEN = 256 * 1024  # Qwen2.5-32B in bfloat16
H200 = DeviceMemory(total=150 * GB, free=80 * GB, used_here=67 * GB, peak=4 * GB)


def layout(device=CUDA, memory=H200, context=32768, **settings):
    """With ``context`` as the setting."""
    config = EngineConfig("big", max_context=context, **settings)
    return make_layout(config, context, CacheNeeds(PER_TOKEN, PER_TOKEN), device, lambda: memory)


def by_default(device=CUDA, memory=H200, limit=32768, per_token=PER_TOKEN, **settings):
    """Without a setting, for a model with this limit."""
    needs = CacheNeeds(per_token, per_token)
    return make_layout(EngineConfig("big", **settings), limit, needs, device, lambda: memory)


def test_the_cache_takes_what_weights_and_the_largest_pass_leave_of_this_process_s_share():
    assert cuda_budget(H200, 0.9) == 135 * GB - 67 * GB - 4 * GB
    assert cuda_budget(H200, 0.5) == 75 * GB - 67 * GB - 4 * GB
    crowded = dataclasses.replace(H200, free=30 * GB)  # another process holds the rest
    assert cuda_budget(crowded, 0.9) == 26 * GB
    assert cuda_budget(H200, 0.4) == 0


def test_on_a_cpu_the_ranks_share_half_of_what_the_process_may_use(monkeypatch):
    monkeypatch.setattr(sizing, "host_bytes", lambda: 4 * GB)
    assert (sizing.host_budget(1), sizing.host_budget(2)) == (2 * GB, GB)


def test_pages_fill_the_budget_but_no_more_than_all_slots_can_use():
    made = layout(num_slots=256)
    assert isinstance(made, Pages)
    assert made.num_pages == 64 * GB // (CUDA_PAGE * PER_TOKEN)
    assert layout(num_slots=2).num_pages == 2 * 32768 // CUDA_PAGE
    assert layout(cache_bytes=10 * GB).num_pages == 10 * GB // (CUDA_PAGE * PER_TOKEN)


def test_a_cache_that_holds_no_whole_session_is_refused_with_what_would_fit():
    full = dataclasses.replace(H200, free=8 * GB)
    with pytest.raises(
        ConfigError, match=r"max_context 32768 .* 8.00 GiB .* 3.69 GiB .* max_context to 15104 or less"
    ):
        layout(memory=full)
    assert layout(memory=full, context=15104).num_pages == 15104 // CUDA_PAGE
    with pytest.raises(ConfigError, match=r"room for 0.00 GiB .* raise gpu_memory_utilization"):
        layout(gpu_memory_utilization=0.1)
    with pytest.raises(ConfigError, match="raise cache_bytes"):
        layout(cache_bytes=1000)


@pytest.mark.parametrize(
    ("cache", "device", "paged"),
    [("auto", CUDA, True), ("auto", CPU, False), ("paged", CPU, True), ("contiguous", CUDA, False)],
)
def test_which_layout(cache, device, paged):
    made = layout(device, context=64, cache=cache, cache_bytes=GB)
    assert isinstance(made, Pages if paged else PrefixCache)


def test_by_default_a_session_on_pages_may_use_the_model_s_own_context_or_what_the_card_holds():
    assert by_default().max_context == 32768
    full = dataclasses.replace(H200, free=8 * GB)
    made = by_default(memory=full)
    assert made.max_context == made.num_pages * CUDA_PAGE == 15104 < 32768
    assert by_default(cache_bytes=GB).max_context == GB // (CUDA_PAGE * PER_TOKEN) * CUDA_PAGE
    with pytest.raises(ConfigError, match=r"room for 0.00 GiB"):
        by_default(memory=dataclasses.replace(H200, free=0))


@pytest.mark.parametrize(
    ("limit", "room", "expected"),
    [
        (2048, 10**6, 2048),  # all slots have the model's own context
        (131072, 32 * 6050, 6000),  # as much as each of the 32 slots has room for
        (131072, 32 * 1000, 4096),  # not all slots can be full at once, as the log and the check say
        (131072, 1000, 1000),  # never more than all the room
    ],
)
def test_by_default_contiguous_slots_share_the_room(limit, room, expected, monkeypatch):
    monkeypatch.setattr(sizing, "host_budget", lambda num_ranks: 100 * room)
    made = by_default(CPU, limit=limit, per_token=100)
    assert (made.max_context, made.num_slots) == (expected, 32)
    made = by_default(CPU, limit=limit, per_token=100, cache_bytes=100 * room)
    assert (made.max_context, made.num_slots) == (expected, min(32, room // expected))


@pytest.mark.parametrize(
    ("num_tokens", "context", "lens"), [(96, 160, [96]), (400, 160, [160, 160, 80]), (8, 4, [4, 4])]
)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_largest_pass_stays_within_the_context(name, num_tokens, context, lens, monkeypatch):
    """On a card, reading positions that the model does not have ends the process. torch.cuda's counters are made up."""
    counters = {
        "memory_allocated": 0,
        "max_memory_allocated": 8,
        "memory_reserved": 0,
        "mem_get_info": (5, 9),
    }
    for counter in ("synchronize", "reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, counter, lambda *_: None)
    for counter, value in counters.items():
        monkeypatch.setattr(torch.cuda, counter, lambda *_, value=value: value)
    forward, batches = engine(name, fast=True if name == "llama" else None, max_context=context).forward, []
    inner = forward.__call__

    class Watched:
        device, make_cache = forward.device, forward.make_cache

        def __call__(self, batch, cache):
            batches.append(batch)
            return inner(batch, cache)

    assert profile(Watched(), num_tokens, context) == DeviceMemory(9, 5, CONTEXT_BYTES, 10)
    assert sorted((len(one.tokens) for one in batches[0].inputs), reverse=True) == lens
