"""How the cache is laid out, and how large it is: from given bytes, from the device's memory, or full slots."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from adasd.config import EngineConfig
from adasd.engine.cache.layout import CacheLayout
from adasd.engine.cache.pages import Pages
from adasd.engine.cache.prefix_cache import PrefixCache
from adasd.engine.loading.limits import is_paged, resolve_num_slots
from adasd.errors import ConfigError

GIB = 2**30
CUDA_PAGE, CPU_PAGE = 256, 16
"""Positions per page; FlashAttention 2 reads pages of a multiple of 256."""

CPU_SHARE = 0.5
"""Share of a machine's memory that a paged cache may take on a CPU, if ``cache_bytes`` is not set."""


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
    bytes_per_token: int,
    device: torch.device,
    memory: Callable[[], DeviceMemory],
) -> CacheLayout:
    """The layout that ``config.cache`` asks for. ``memory`` is called if the device's memory decides the size.

    Raises ConfigError if there is no room for one session of ``max_context`` tokens.
    """
    if not is_paged(config, device):
        num_slots = resolve_num_slots(config, bytes_per_token * max_context)
        return PrefixCache(num_slots, max_context, config.prefix_cache)
    size = page_size(device)
    needed = -(-max_context // size)
    num_pages = _num_bytes(config, device, memory) // (bytes_per_token * size)
    if num_pages < needed:
        raise ConfigError(_too_small(config, max_context, num_pages * size, bytes_per_token))
    num_pages = min(num_pages, needed * config.num_slots)
    return Pages(config.num_slots, max_context, size, num_pages, config.prefix_cache)


def _num_bytes(config: EngineConfig, device: torch.device, memory: Callable[[], DeviceMemory]) -> int:
    """Bytes that the cache may take."""
    if config.cache_bytes is not None:
        return config.cache_bytes
    if device.type == "cuda":
        return cuda_budget(memory(), config.gpu_memory_utilization)
    return int(CPU_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def cuda_budget(memory: DeviceMemory, utilization: float) -> int:
    """What is left for the cache of this process's share of the device, and of what is free."""
    own = int(memory.total * utilization) - memory.used_here
    return max(0, min(own, memory.free) - memory.peak)


def _too_small(config: EngineConfig, max_context: int, num_tokens: int, bytes_per_token: int) -> str:
    needed, found = max_context * bytes_per_token / GIB, num_tokens * bytes_per_token / GIB
    what = "cache_bytes" if config.cache_bytes is not None else "gpu_memory_utilization"
    fits = f"lower max_context to {num_tokens} or less, or " if num_tokens > 1 else ""
    return (
        f"{config.model}: one session of max_context {max_context} tokens takes {needed:.2f} GiB of cache, but "
        f"there is room for {found:.2f} GiB beside the weights; {fits}raise {what}, or take a smaller model or dtype"
    )
