"""One forward pass: sequences of different lengths as flat tokens, grouped for attention.

Sequences of similar length share one attention call (a *group*). So decode steps need no padding, verification
blocks need little, and a long chunk of prefill does not pad other sequences to its own length.
Shape letters: T tokens of all sequences, R sequences of a group, N tokens of its longest one, L longest cached length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, groupby

import torch
from torch import Tensor

from adasd.engine.cache.layout import CacheLayout
from adasd.engine.cache.pages import NO_PAGE
from adasd.engine.work import StepInput

CALL_COST = 256
"""Cost of one more attention call on a CPU, in cached tokens of one slot that could be read in the same time."""

_DENSE = 1.5
"""Where slots are gathered: a range with at most this many slots per slot in use is read in place instead."""


@dataclass(slots=True, eq=False)
class Group:
    """Flat tokens ``[first, last)`` that share one attention call."""

    first: int
    last: int
    num_sequences: int  # R, idle slots of a range included
    width: int  # N
    longest: int  # L
    slots: slice | Tensor  # of the cache: read in place, or gathered
    tables: tuple[Tensor, ...]  # where the cache is paged: of each table, the slots' pages [R, M]
    positions_RN: Tensor  # of the queries; 0 for padding
    pad: Tensor | None  # [R * N] padded index -> token of the group; None: no padding
    unpad: Tensor | None  # [last - first] token -> its padded index
    exact: bool  # single tokens that all have L keys: no mask
    masks: dict[tuple[int, int | None, torch.dtype], Tensor | None] = field(default_factory=dict)

    def mask(self, fold: int, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive mask [R, 1, fold * N, L], or None if no key is masked.

        ``fold`` query heads share a key-value head and are stacked as extra queries. ``window`` is the number of
        latest keys that are visible (sliding-window layers).
        """
        key = (fold, window, dtype)
        if key not in self.masks:
            self.masks[key] = self._mask(fold, window, dtype)
        return self.masks[key]

    def _mask(self, fold: int, window: int | None, dtype: torch.dtype) -> Tensor | None:
        if window is not None and window >= self.longest:
            window = None
        if self.exact and window is None:
            return None
        keys_L = torch.arange(self.longest, device=self.positions_RN.device)
        queries_RN1 = self.positions_RN.unsqueeze(-1)
        hidden_RNL = keys_L > queries_RN1
        if window is not None:
            hidden_RNL |= keys_L <= queries_RN1 - window
        mask_RNL = torch.zeros(hidden_RNL.shape, dtype=dtype, device=keys_L.device)
        mask_RNL.masked_fill_(hidden_RNL, float("-inf"))
        return mask_RNL.repeat(1, fold, 1).unsqueeze(1)


@dataclass(frozen=True, slots=True, eq=False)
class PageTables:
    """The sequences of a pass over a paged cache, as FlashAttention reads them; all tensors int32."""

    pages_RM: Tensor  # padded with NO_PAGE
    used_R: Tensor  # keys that each sequence sees, its own tokens included
    first_query_R1: Tensor  # [R + 1] index of each sequence's first token; then the number of tokens
    first_key_R1: Tensor  # [R + 1] of keys that lie one after the other; paged ones are found by ``pages_RM``
    max_queries: int
    max_keys: int


class ForwardBatch:
    """One forward pass over flattened sequences; tensors are made on first use.

    ``inputs`` are sorted by ``StepInput.attention_order``. ``num_layers``: layers of the model to compute; 0: all.
    """

    is_fixed = False  # of one size, to be recorded

    def __init__(
        self, inputs: Sequence[StepInput], layout: CacheLayout, device: torch.device, num_layers: int = 0
    ) -> None:
        self.inputs, self.num_layers = inputs, num_layers
        self.layout, self._device = layout, device
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.slots: list[int] = []
        self.wanted_at: list[int] = []  # indices of the tokens whose logits are wanted
        for one in inputs:
            num = len(one.tokens)
            self.ids += one.tokens
            self.positions += range(one.start, one.start + num)
            self.slots += [one.slot] * num
            self.wanted_at += range(len(self.ids) - one.num_positions, len(self.ids))

    @cached_property
    def _flat(self) -> tuple[Tensor, ...]:
        where = [
            [
                place
                for one in self.inputs
                for run in self.layout.runs(one.slot, one.start, one.end, table)
                for place in run
            ]
            for table in range(len(self.layout.windows))
        ]
        return torch.tensor([self.ids, self.positions, *where], device=self._device).unbind()

    @property
    def ids_T(self) -> Tensor:
        return self._flat[0]

    @property
    def positions_T(self) -> Tensor:
        return self._flat[1]

    @cached_property
    def where_T(self) -> tuple[Tensor, ...]:
        """Places in the cache, of each table."""
        return self._flat[2:]

    @cached_property
    def wanted(self) -> Tensor | None:
        """``wanted_at`` as a tensor; None: all tokens."""
        if len(self.wanted_at) == len(self.ids):
            return None
        return torch.tensor(self.wanted_at, dtype=torch.long, device=self._device)

    @cached_property
    def tables(self) -> tuple[PageTables, ...]:
        """All sequences, where the cache is paged; of each table."""
        num, device = len(self.inputs), self._device
        first_query = [0, *accumulate(len(one.tokens) for one in self.inputs)]
        max_keys = max(one.end for one in self.inputs)
        numbers = [one.end for one in self.inputs] + first_query + [n * max_keys for n in range(num + 1)]
        packed = torch.tensor(numbers, dtype=torch.int32, device=device)
        used_R, first_query_R1, first_key_R1 = torch.split(packed, [num, num + 1, num + 1])
        max_queries = max(len(one.tokens) for one in self.inputs)
        return tuple(
            PageTables(pages_RM, used_R, first_query_R1, first_key_R1, max_queries, max_keys)
            for pages_RM in page_tables(self.inputs, self.layout, device)
        )

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Sequences that share an attention call."""
        return tuple(_groups(self.inputs, self.positions_T, self.layout))


def _groups(inputs: Sequence[StepInput], positions_T: Tensor, layout: CacheLayout) -> Iterable[Group]:
    first = 0
    paged = layout.page_size is not None
    for _, members in groupby(inputs, key=_group_key):
        alike = list(members)
        for neighbours in [alike] if paged or gathers(positions_T.device) else _runs(alike):
            group = _group(neighbours, positions_T, first, layout)
            yield group
            first = group.last


def gathers(device: torch.device) -> bool:
    """Whether slots that lie far apart are gathered for one attention call, rather than read in several calls."""
    return device.type != "cpu"


def _runs(inputs: list[StepInput]) -> Iterable[list[StepInput]]:
    """Runs of sequences that are close in the cache and similar in length: one attention call per run.

    A call reads all slots from its first to its last, up to the longest length. It may read in vain as much as
    another call would cost. (On a CPU, gathering the slots first costs far more.)
    """
    run = inputs[:1]
    longest = useful = run[0].end
    wasted = 0
    for one in inputs[1:]:
        now_longest, now_useful = max(longest, one.end), useful + one.end
        now_wasted = (one.slot + 1 - run[0].slot) * now_longest - now_useful
        if now_wasted - wasted > CALL_COST:
            yield run
            run, longest, useful, wasted = [one], one.end, one.end, 0
        else:
            run.append(one)
            longest, useful, wasted = now_longest, now_useful, now_wasted
    yield run


def _group_key(one: StepInput) -> tuple[int, int]:
    kind, slot = one.attention_order
    return kind, slot if kind > 2 else 0


def _group(inputs: list[StepInput], positions_T: Tensor, first: int, layout: CacheLayout) -> Group:
    lens = [len(one.tokens) for one in inputs]
    width, last = max(lens), first + sum(lens)
    longest = max(one.end for one in inputs)
    tables: tuple[Tensor, ...] = ()
    if layout.page_size is None:
        slots, places, num_sequences = _slots_to_read(inputs, positions_T.device)
    else:
        slots, places, num_sequences = slice(0, 0), list(range(len(inputs))), len(inputs)
        tables = page_tables(inputs, layout, positions_T.device)
    group_positions = positions_T[first:last]
    pad = unpad = None
    if num_sequences == len(inputs) and min(lens) == width:
        positions_RN = group_positions.view(num_sequences, width)
    else:
        pad, unpad, positions_RN = _padding(group_positions, lens, places, num_sequences, width)
    exact = width == 1 and pad is None and all(one.end == longest for one in inputs)
    return Group(first, last, num_sequences, width, longest, slots, tables, positions_RN, pad, unpad, exact)


def page_tables(inputs: Sequence[StepInput], layout: CacheLayout, device: torch.device) -> tuple[Tensor, ...]:
    """Of each table, the pages that each sequence reads: [R, M] int32, padded with ``NO_PAGE``."""
    assert layout.page_size is not None
    lens = [-(-one.end // layout.page_size) for one in inputs]
    padded = [
        [
            [*layout.pages(one.slot, table)[:num], *[NO_PAGE] * (max(lens) - num)]
            for one, num in zip(inputs, lens, strict=True)
        ]
        for table in range(len(layout.windows))
    ]
    return torch.tensor(padded, dtype=torch.int32, device=device).unbind()


def _slots_to_read(inputs: list[StepInput], device: torch.device) -> tuple[slice | Tensor, list[int], int]:
    """Slots to read, the index of every sequence among them, and their number."""
    low, high = inputs[0].slot, inputs[-1].slot + 1
    if not gathers(device) or high - low <= _DENSE * len(inputs):
        return slice(low, high), [one.slot - low for one in inputs], high - low
    return torch.tensor([one.slot for one in inputs], device=device), list(range(len(inputs))), len(inputs)


def _padding(
    positions: Tensor, lens: list[int], places: list[int], num_sequences: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    device = positions.device
    where = [place * width + i for place, num in zip(places, lens, strict=True) for i in range(num)]
    unpad = torch.tensor(where, device=device)
    pad = torch.zeros(num_sequences * width, dtype=torch.long, device=device)
    pad[unpad] = torch.arange(len(where), device=device)
    positions_RN = torch.zeros(num_sequences * width, dtype=torch.long, device=device)
    positions_RN[unpad] = positions
    return pad, unpad, positions_RN.view(num_sequences, width)
