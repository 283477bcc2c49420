"""How the cache is laid out, and how large it is: from given bytes, from the device's memory, or full slots."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from adasd.config import EngineConfig
from adasd.engine.cache.layers import CacheNeeds
from adasd.engine.cache.layout import CacheLayout
from adasd.engine.cache.pages import PageNeeds, Pages
from adasd.engine.cache.prefix_cache import PrefixCache
from adasd.engine.loading.host_memory import host_bytes
from adasd.engine.loading.limits import is_paged, resolve_num_slots
from adasd.errors import ConfigError

_log = logging.getLogger(__name__)

GIB = 2**30
CUDA_PAGE, CPU_PAGE = 256, 16
"""Positions per page; FlashAttention 2 reads pages of a multiple of 256."""

CPU_SHARE = 0.5
"""Share of a machine's or container's memory that the cache may take on a CPU, if ``cache_bytes`` is not set."""

USUAL_CONTEXT = 4096
"""Contiguous slots hold as much by default, even if not all of them can be full at once."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of one CUDA device, after the weights are loaded."""

    total: int
    free: int
    used_here: int  # of the used ones, by this process
    peak: int  # more that a pass takes at most


def page_size(device: torch.device) -> int:
    """Positions per page on this device."""
    return CUDA_PAGE if device.type == "cuda" else CPU_PAGE


def make_layout(
    config: EngineConfig,
    max_context: int,
    needs: CacheNeeds,
    device: torch.device,
    memory: Callable[[], DeviceMemory],
) -> CacheLayout:
    """The layout that ``config.cache`` asks for. ``memory`` is called if the device's memory decides the size.

    ``max_context`` is the model's own limit where ``config.max_context`` is not set; memory may bound it then. Raises
    ConfigError if there is no room for one session.
    """
    if not is_paged(config, device):
        if config.max_context is None:
            max_context = contiguous_context(config, max_context, needs.bytes_per_token)
        num_slots = resolve_num_slots(config, needs.bytes_per_token * max_context)
        _log.info("the cache has %d slots of %d tokens", num_slots, max_context)
        return PrefixCache(num_slots, max_context, config.prefix_cache)
    size = page_size(device)
    page_bytes, pages = needs.bytes_per_place * size, PageNeeds(size, needs.windows, config.prefill_chunk)
    num_pages = _num_bytes(config, device, memory) // page_bytes
    fitting = pages.context_of(num_pages, max_context)
    if config.max_context is None and fitting:
        max_context = fitting
    needed = pages.pages_of(max_context)
    if num_pages < needed:
        raise ConfigError(
            _too_small(config, max_context, needed * page_bytes, num_pages * page_bytes, fitting)
        )
    num_pages = min(num_pages, needed * config.num_slots)
    _log.info(
        "the cache has %d pages of %d tokens (%.2f GiB) for %d sessions of at most %d tokens",
        num_pages,
        size,
        num_pages * page_bytes / GIB,
        config.num_slots,
        max_context,
    )
    return Pages(
        config.num_slots,
        max_context,
        size,
        num_pages,
        config.prefix_cache,
        needs.windows,
        config.prefill_chunk,
    )


def contiguous_context(config: EngineConfig, limit: int, bytes_per_token: int) -> int:
    """Tokens per contiguous slot where ``max_context`` is not set.

    The model's ``limit`` if the cache then has room for ``num_slots`` full slots, else as much as it has room for (in
    whole hundreds of tokens), but at least ``USUAL_CONTEXT``, and never more than one slot of all the room.
    """
    room = (
        host_budget(config.tensor_parallel) if config.cache_bytes is None else config.cache_bytes
    ) // bytes_per_token
    return max(1, min(limit, room, max(USUAL_CONTEXT, room // config.num_slots // 100 * 100)))


def host_budget(num_ranks: int) -> int:
    """Bytes of this machine's or container's memory that the cache of one of the ranks may take."""
    return int(CPU_SHARE * host_bytes()) // num_ranks


def _num_bytes(config: EngineConfig, device: torch.device, memory: Callable[[], DeviceMemory]) -> int:
    """Bytes that the cache may take."""
    if config.cache_bytes is not None:
        return config.cache_bytes
    if device.type == "cuda":
        return cuda_budget(memory(), config.gpu_share)
    return host_budget(config.tensor_parallel)


def cuda_budget(memory: DeviceMemory, utilization: float) -> int:
    """What is left for the cache of this process's share of the device, and of what is free."""
    own = int(memory.total * utilization) - memory.used_here
    return max(0, min(own, memory.free) - memory.peak)


def _too_small(
    config: EngineConfig, max_context: int, least_bytes: int, found_bytes: int, fitting: int
) -> str:
    """``fitting``: the longest context that would fit."""
    needed, found = least_bytes / GIB, found_bytes / GIB
    what = "cache_bytes" if config.cache_bytes is not None else "gpu_memory_utilization"
    fits = f"lower max_context to {fitting} or less, or " if fitting > 1 else ""
    return (
        f"{config.model}: one session of max_context {max_context} tokens takes {needed:.2f} GiB of cache, but "
        f"there is room for {found:.2f} GiB beside the weights; {fits}raise {what}, or take a smaller model or dtype"
    )
