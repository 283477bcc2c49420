"""CPU memory from anonymous mappings, so that we choose the page size.

numpy requests huge pages of 2 MiB. That is wrong for the cache: the first token of a session touches one page per
layer, and the system has to find and zero each of them. It is right for weights, which every pass reads from front
to back: with small pages the processor spends its time on address translation.
"""

from __future__ import annotations

import contextlib
import mmap
import sys

import torch
from torch import Tensor

HUGE_PAGE = 2**21
"""Bytes."""

CHUNK = 32 * HUGE_PAGE
"""Bytes mapped at once."""

_COLLAPSE = 25  # MADV_COLLAPSE, Linux 6.1: move mapped memory to huge pages now
_ALIGNMENT = 64


def zeros(num_bytes: int) -> Tensor:
    """Zeros [num_bytes] uint8 on small pages, each committed when it is first written.

    Raises MemoryError if there is not enough address space.
    """
    memory = _map(num_bytes)
    if sys.platform == "linux":
        _advise(memory, mmap.MADV_NOHUGEPAGE, 0, num_bytes)
    return torch.frombuffer(memory, dtype=torch.uint8)


class HugePages:
    """Tensors that every pass reads, stored one after another on huge pages where the system has them."""

    def __init__(self) -> None:
        self._chunks: list[
            tuple[mmap.mmap, int, Tensor]
        ] = []  # mapping, offset of its first aligned byte, aligned part
        self._used = 0  # bytes used of the newest chunk

    def copy(self, tensor: Tensor) -> Tensor:
        """A contiguous copy, which keeps the memory alive."""
        source = tensor.detach().contiguous()
        num_bytes = source.numel() * source.element_size()
        if not self._chunks or self._used + num_bytes > len(self._chunks[-1][2]):
            self._add_chunk(num_bytes)
        chunk = self._chunks[-1][2]
        held = chunk[self._used : self._used + num_bytes].view(source.dtype).view(source.shape)
        self._used += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        return held.copy_(source)

    def collapse(self) -> None:
        """Move everything to huge pages now, rather than when the system gets round to it."""
        if sys.platform == "linux":
            for memory, first, chunk in self._chunks:
                _advise(memory, _COLLAPSE, first, len(chunk))

    def _add_chunk(self, num_bytes: int) -> None:
        size = max(CHUNK, -(-num_bytes // HUGE_PAGE) * HUGE_PAGE)
        memory = _map(size + HUGE_PAGE)
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        first = -whole.data_ptr() % HUGE_PAGE
        if sys.platform == "linux":
            _advise(memory, mmap.MADV_HUGEPAGE, first, size)
        self._chunks.append((memory, first, whole[first : first + size]))
        self._used = 0


def _map(num_bytes: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"{num_bytes} bytes cannot be mapped: {error}") from error


def _advise(memory: mmap.mmap, advice: int, first: int, num_bytes: int) -> None:
    """Call madvise. If the system does not know or follow the advice, only speed suffers."""
    with contextlib.suppress(OSError):
        memory.madvise(advice, first, num_bytes)
