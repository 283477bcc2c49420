"""Passes of a fixed number of tokens, whose inputs are replaced in place, so that a CUDA graph can repeat them.

Every token is a sequence of its own over the pages of its slot: all keys of a pass are written before any is read, so
a token sees those before it, be it decoded, verified or drafted. So the shapes are two numbers: of tokens, rounded up
to a power of two, and of tokens whose logits are wanted, all or half of those. Padding writes to the scratch place of
the cache and reads the first key of the page of zeros; its results are never read.
Shape letters: T tokens, W tokens whose logits are computed, K tables of pages, M pages of a full slot in one table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class PassSize:
    """The shapes of a fixed pass."""

    num_tokens: int
    num_wanted: (
        int  # tokens whose logits it computes: all, or half where catching up feeds more than is judged
    )

    def __str__(self) -> str:
        return f"{self.num_tokens} tokens and logits of {self.num_wanted}"


def sizes_for(inputs: Sequence[StepInput]) -> list[PassSize]:
    """Sizes that hold these inputs, the one with fewest logits first; empty: they are too large."""
    num_tokens = sum(len(one.tokens) for one in inputs)
    if num_tokens > MAX_TOKENS or max(len(one.tokens) for one in inputs) > MAX_WIDTH:
        return []
    num_wanted = sum(one.num_positions for one in inputs)
    sizes = _sizes_of(power_of_two(num_tokens))
    return [size for size in reversed(sizes) if size.num_wanted >= num_wanted]


def all_sizes() -> Iterator[PassSize]:
    """The sizes of all fixed passes, largest first: so all later ones find their memory."""
    num_tokens = MAX_TOKENS
    while num_tokens:
        yield from _sizes_of(num_tokens)
        num_tokens //= 2


def _sizes_of(num_tokens: int) -> list[PassSize]:
    """A draft feeds one or two tokens per session and wants the logits of one; the rest mostly wants all."""
    return [PassSize(num_tokens, num) for num in dict.fromkeys((num_tokens, max(1, num_tokens // 2)))]


def power_of_two(number: int) -> int:
    """The smallest power of two >= ``number``."""
    return 1 << (number - 1).bit_length()


class Padded(ForwardBatch):
    """A pass of one size over one paged cache; its tensors never move."""

    is_fixed = True

    def __init__(self, size: PassSize, cache: KVCache) -> None:
        super().__init__([], cache.layout, cache.device)
        self.num_tokens, self.scratch = size.num_tokens, cache.scratch
        page_size = cache.layout.page_size
        assert page_size is not None, "fixed passes read pages"
        self._size, self._page_size, device = size, page_size, cache.device
        self._max_pages, num_tokens = -(-cache.layout.max_context // page_size), size.num_tokens
        num_tables = len(cache.layout.windows)
        per_token = 8 * (2 + num_tables) + 4 * (1 + num_tables * self._max_pages)
        num_bytes = num_tokens * per_token + size.num_wanted * 8
        self._hosts = [_Host(num_bytes, device) for _ in range(2)]  # in turn: a copy may still be on its way
        self._numbers = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        flat, self.wanted, self.used_T, self.pages_KTM = _views(self._numbers, size, num_tables)
        self._flat = tuple(flat.unbind())
        firsts = torch.arange(num_tokens + 1, dtype=torch.int32, device=device)
        max_keys = cache.layout.max_context
        self.tables = tuple(
            PageTables(pages_TM, self.used_T, firsts, firsts * max_keys, 1, max_keys)
            for pages_TM in self.pages_KTM
        )
        positions_T1 = self.positions_T.view(num_tokens, 1)
        nothing = slice(0, 0)
        self._group = Group(
            0,
            num_tokens,
            num_tokens,
            1,
            max_keys,
            nothing,
            tuple(self.pages_KTM),
            positions_T1,
            None,
            None,
            exact=False,
        )
        self.groups = (self._group,)
        self.fill([])

    def fill(self, inputs: Sequence[StepInput]) -> None:
        """Load these inputs, by one copy to the device that the host does not wait for.

        Logits come in the order of the tokens that they are wanted of; where there is room for more, the rest is
        padding.
        """
        self._hosts.reverse()
        host = self._hosts[0]
        host.wait()
        num_tables = len(self.pages_KTM)
        flat, wanted, used, pages = (view.numpy() for view in _views(host.numbers, self._size, num_tables))
        flat[:2], flat[2:], wanted[:], used[:], pages[:] = 0, self.scratch, 0, 1, NO_PAGE
        first = num_wanted = 0
        for one in inputs:
            some = slice(first, first + len(one.tokens))
            flat[0, some] = one.tokens
            flat[1, some] = range(one.start, one.end)
            used[some] = range(one.start + 1, one.end + 1)
            for table in range(num_tables):
                runs = self.layout.runs(one.slot, one.start, one.end, table)
                flat[2 + table, some] = [place for run in runs for place in run]
                held = self.layout.pages(one.slot, table)
                pages[table, some, : len(held)] = held
            first, before = some.stop, num_wanted
            num_wanted += one.num_positions
            wanted[before:num_wanted] = range(first - one.num_positions, first)
        host.send(self._numbers)

    def forget_masks(self) -> None:
        """Drop the cached masks: each pass makes its own from its inputs."""
        self._group.masks.clear()

    def go_to(self, tokens_T: Tensor, positions_T: Tensor, idle_T: Tensor) -> None:
        """On the device: each sequence feeds this token at this position of its slot next, unless it is idle."""
        at_T1 = (positions_T // self._page_size).clamp_max(self._max_pages - 1)[:, None]
        self.ids_T.copy_(tokens_T.masked_fill(idle_T, 0))
        self.positions_T.copy_(positions_T.masked_fill(idle_T, 0))
        for pages_TM, where_T in zip(self.pages_KTM, self.where_T, strict=True):
            places_T = pages_TM.gather(1, at_T1)[:, 0] * self._page_size + positions_T % self._page_size
            where_T.copy_(places_T.masked_fill(idle_T, self.scratch))
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


def _views(numbers: Tensor, size: PassSize, num_tables: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """In these bytes: ids, positions and places [2 + K, T], and indices of wanted tokens [W], int64; then visible keys
    [T] and pages [K, T, M], int32."""
    num_tokens = size.num_tokens
    sizes = [8 * (2 + num_tables) * num_tokens, 8 * size.num_wanted, 4 * num_tokens]
    flat, wanted, used, pages = torch.split(numbers, [*sizes, numbers.numel() - sum(sizes)])
    return (
        flat.view(torch.int64).view(2 + num_tables, num_tokens),
        wanted.view(torch.int64),
        used.view(torch.int32),
        pages.view(torch.int32).view(num_tables, num_tokens, -1),
    )
