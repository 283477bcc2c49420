"""Passes of a fixed number of tokens, whose inputs are replaced in place, so that a CUDA graph can repeat them.

Every token is a sequence of its own over the pages of its slot: all keys of a pass are written before any is read, so
a token sees those before it, be it decoded, verified or drafted. So the number of tokens is the only shape: it is
rounded up to a power of two. Padding writes to the scratch place of the cache and reads the first key of the page of
zeros; its results are never read.
Shape letters: T tokens, M pages of a full slot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.pages import NO_PAGE
from adasd.engine.forward.batch import ForwardBatch, Group, PageTables
from adasd.engine.work import StepInput

MAX_WIDTH = 32
"""Most tokens per sequence: room for a block of 16 and the tokens fed before it. Chunks of prompts are not padded."""

MAX_TOKENS = 256
"""Most tokens of a fixed pass: a larger one is compute-bound, so padding would cost time."""


def padded_len(inputs: Sequence[StepInput]) -> int | None:
    """Tokens of the smallest fixed pass that holds these inputs; None: they are too large."""
    num_tokens = sum(len(one.tokens) for one in inputs)
    if num_tokens > MAX_TOKENS or max(len(one.tokens) for one in inputs) > MAX_WIDTH:
        return None
    return power_of_two(num_tokens)


def all_lens() -> Iterator[int]:
    """The numbers of tokens of all fixed passes, largest first: so all later ones find their memory."""
    num_tokens = MAX_TOKENS
    while num_tokens:
        yield num_tokens
        num_tokens //= 2


def power_of_two(number: int) -> int:
    """The smallest power of two >= ``number``."""
    return 1 << (number - 1).bit_length()


class Padded(ForwardBatch):
    """A pass of ``num_tokens`` tokens over one paged cache; its tensors never move."""

    is_fixed = True

    def __init__(self, num_tokens: int, cache: KVCache) -> None:
        super().__init__([], cache.layout, cache.device)
        self.num_tokens, self.scratch = num_tokens, cache.scratch
        size = cache.layout.page_size
        assert size is not None, "fixed passes read pages"
        self._page_size, device = size, cache.device
        self._max_pages = -(-cache.layout.max_context // size)
        num_bytes = num_tokens * (3 * 8 + (1 + self._max_pages) * 4)
        self._hosts = [_Host(num_bytes, device) for _ in range(2)]  # in turn: a copy may still be on its way
        self._numbers = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        flat_3T, self.used_T, self.pages_TM = _views(self._numbers, num_tokens)
        self._flat = tuple(flat_3T.unbind())
        firsts = torch.arange(num_tokens + 1, dtype=torch.int32, device=device)
        max_keys = cache.layout.max_context
        self.tables = PageTables(self.pages_TM, self.used_T, firsts, firsts * max_keys, 1, max_keys)
        positions_T1 = self.positions_T.view(num_tokens, 1)
        nothing = slice(0, 0)
        self._group = Group(
            0,
            num_tokens,
            num_tokens,
            1,
            max_keys,
            nothing,
            self.pages_TM,
            positions_T1,
            None,
            None,
            exact=False,
        )
        self.groups = (self._group,)
        self.wanted = None
        self.fill([])

    def fill(self, inputs: Sequence[StepInput]) -> None:
        """Load these inputs, by one copy to the device that the host does not wait for."""
        self._hosts.reverse()
        host = self._hosts[0]
        host.wait()
        flat, used, pages = (view.numpy() for view in _views(host.numbers, self.num_tokens))
        flat[0], flat[1], flat[2], used[:], pages[:] = 0, 0, self.scratch, 1, NO_PAGE
        first = 0
        for one in inputs:
            some = slice(first, first + len(one.tokens))
            flat[0, some] = one.tokens
            flat[1, some] = range(one.start, one.end)
            flat[2, some] = [place for run in self.layout.runs(one.slot, one.start, one.end) for place in run]
            used[some] = range(one.start + 1, one.end + 1)
            held = self.layout.pages(one.slot)
            pages[some, : len(held)] = held
            first = some.stop
        host.send(self._numbers)

    def forget_masks(self) -> None:
        """Drop the cached masks: each pass makes its own from its inputs."""
        self._group.masks.clear()

    def go_to(self, tokens_T: Tensor, positions_T: Tensor, idle_T: Tensor) -> None:
        """On the device: each sequence feeds this token at this position of its slot next, unless it is idle."""
        at_T1 = (positions_T // self._page_size).clamp_max(self._max_pages - 1)[:, None]
        where_T = self.pages_TM.gather(1, at_T1)[:, 0] * self._page_size + positions_T % self._page_size
        self.ids_T.copy_(tokens_T.masked_fill(idle_T, 0))
        self.positions_T.copy_(positions_T.masked_fill(idle_T, 0))
        self.where_T.copy_(where_T.masked_fill(idle_T, self.scratch))
        self.used_T.copy_((positions_T + 1).masked_fill(idle_T, 1))


class _Host:
    """Pinned memory that one copy to the device reads at a time."""

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        on_cuda = device.type == "cuda"
        self.numbers = torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=on_cuda)
        self._sent = torch.cuda.Event() if on_cuda else None  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Until the latest copy has read the memory."""
        if self._sent is not None:
            self._sent.synchronize()

    def send(self, numbers: Tensor) -> None:
        """Copy to the device; the host does not wait for it."""
        numbers.copy_(self.numbers, non_blocking=True)
        if self._sent is not None:
            self._sent.record()


def _views(numbers: Tensor, num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, positions and places [3, T] int64, visible keys [T] int32 and pages [T, M] int32, in these bytes."""
    sizes = [24 * num_tokens, 4 * num_tokens, numbers.numel() - 28 * num_tokens]
    flat, used, pages = torch.split(numbers, sizes)
    return (
        flat.view(torch.int64).view(3, num_tokens),
        used.view(torch.int32),
        pages.view(torch.int32).view(num_tokens, -1),
    )
