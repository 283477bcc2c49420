"""One ragged forward pass: rows of different lengths as flat tokens, and how attention walks over them.

Rows of similar length share one attention call (a *group*): decode steps need no padding at all, verification
blocks little, and a long piece of prefill does not pad everybody else's row to its own length.
Shape letters: T tokens of all rows, R rows of a group, N the group's longest row, L its longest cached length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

SHORT_ROW = 32
"""Rows of at most so many tokens share a padded attention call; longer ones have one each."""

CALL_COST = 256
"""What one more attention call costs on a CPU, in cached tokens of one row that it could read meanwhile."""

_DENSE = 1.5
"""Where rows are gathered: a range with at most so many rows per row in use is read in place rather than gathered."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one session feeds in this pass."""

    slot: int
    start: int  # position of the first token
    tokens: Sequence[int]  # at least one
    num_logits: int  # logits are wanted of the last so many tokens

    @property
    def end(self) -> int:
        """Tokens that the row holds after this pass."""
        return self.start + len(self.tokens)

    @property
    def attention_order(self) -> tuple[int, int]:
        """Sort key: rows that share an attention call are neighbours, by slot within it."""
        num = len(self.tokens)
        return (1 if num == 1 else 2 if num <= SHORT_ROW else 2 + num, self.slot)


@dataclass(slots=True, eq=False)
class Group:
    """Rows ``[first, last)`` of the flat tokens that are attended to in one call."""

    first: int
    last: int
    num_rows: int  # R, idle rows of a dense range included
    width: int  # N
    longest: int  # L
    slots: slice | Tensor  # rows of the cache: in place, or gathered
    positions_RN: Tensor  # of the queries; padding stands at 0
    pad: Tensor | None  # [R * N] index of the group's tokens for every padded place; None: nothing to pad
    unpad: Tensor | None  # [last - first] where in R * N each token stands
    exact: bool  # single-token rows which all have L keys: nothing to mask
    masks: dict[tuple[int, int | None, torch.dtype], Tensor | None] = field(default_factory=dict)

    def mask(self, fold: int, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive mask [R, 1, fold * N, L], or None if every key counts.

        ``fold`` query heads share a key-value head and stand below each other as further queries; ``window``
        is the number of latest keys that count (sliding-window layers).
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


class ForwardBatch:
    """One forward pass over all rows, flattened; what torch needs of it is made when it is asked for."""

    def __init__(self, rows: Sequence[Row], max_context: int, device: torch.device) -> None:
        self.rows, self.max_context, self._device = rows, max_context, device
        self._elsewhere: dict[torch.device, ForwardBatch] = {}
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.slots: list[int] = []
        self.wanted_at: list[int] = []  # indices of the tokens whose logits are wanted
        for row in rows:
            num = len(row.tokens)
            self.ids += row.tokens
            self.positions += range(row.start, row.start + num)
            self.slots += [row.slot] * num
            self.wanted_at += range(len(self.ids) - row.num_logits, len(self.ids))

    @classmethod
    def build(cls, rows: Sequence[Row], max_context: int, device: torch.device) -> ForwardBatch:
        """``rows`` are sorted by ``Row.attention_order``."""
        return cls(rows, max_context, device)

    def on(self, device: torch.device) -> ForwardBatch:
        """The same pass for layers that live on ``device``; made once."""
        if device == self._device:
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = ForwardBatch(self.rows, self.max_context, device)
        return self._elsewhere[device]

    @cached_property
    def _flat(self) -> tuple[Tensor, ...]:
        where = [
            slot * self.max_context + position
            for slot, position in zip(self.slots, self.positions, strict=True)
        ]
        return torch.tensor([self.ids, self.positions, where], device=self._device).unbind()

    @property
    def ids_T(self) -> Tensor:
        return self._flat[0]

    @property
    def positions_T(self) -> Tensor:
        return self._flat[1]

    @property
    def where_T(self) -> Tensor:
        """Place in the cache: slot * max_context + position."""
        return self._flat[2]

    @cached_property
    def wanted(self) -> Tensor | None:
        """``wanted_at`` as a tensor; None: of all."""
        if len(self.wanted_at) == len(self.ids):
            return None
        return torch.tensor(self.wanted_at, dtype=torch.long, device=self._device)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Rows that share an attention call."""
        return tuple(_groups(self.rows, self.positions_T))


def _groups(rows: Sequence[Row], positions_T: Tensor) -> Iterable[Group]:
    first = 0
    for _, members in groupby(rows, key=_group_key):
        alike = list(members)
        for neighbours in [alike] if gathers(positions_T.device) else _runs(alike):
            group = _group(neighbours, positions_T, first)
            yield group
            first = group.last


def gathers(device: torch.device) -> bool:
    """Whether rows that lie far apart are gathered for one attention call, rather than read in several."""
    return device.type != "cpu"


def _runs(rows: list[Row]) -> Iterable[list[Row]]:
    """Rows near to each other in the cache and alike in length, for one attention call each.

    A call reads all rows from its first to its last one up to the longest length; what it reads in vain may
    cost as much as a further call. (Gathering rows first costs far more on a CPU.)
    """
    run = rows[:1]
    longest = useful = run[0].end
    wasted = 0
    for row in rows[1:]:
        now_longest, now_useful = max(longest, row.end), useful + row.end
        now_wasted = (row.slot + 1 - run[0].slot) * now_longest - now_useful
        if now_wasted - wasted > CALL_COST:
            yield run
            run, longest, useful, wasted = [row], row.end, row.end, 0
        else:
            run.append(row)
            longest, useful, wasted = now_longest, now_useful, now_wasted
    yield run


def _group_key(row: Row) -> tuple[int, int]:
    kind, slot = row.attention_order
    return kind, slot if kind > 2 else 0


def _group(rows: list[Row], positions_T: Tensor, first: int) -> Group:
    lens = [len(row.tokens) for row in rows]
    width, last = max(lens), first + sum(lens)
    longest = max(row.end for row in rows)
    slots, places, num_rows = _cache_rows(rows, positions_T.device)
    group_positions = positions_T[first:last]
    pad = unpad = None
    if num_rows == len(rows) and min(lens) == width:
        positions_RN = group_positions.view(num_rows, width)
    else:
        pad, unpad, positions_RN = _padding(group_positions, lens, places, num_rows, width)
    exact = width == 1 and pad is None and all(row.end == longest for row in rows)
    return Group(first, last, num_rows, width, longest, slots, positions_RN, pad, unpad, exact)


def _cache_rows(rows: list[Row], device: torch.device) -> tuple[slice | Tensor, list[int], int]:
    """Rows of the cache to read, the place of every row among them, and their number."""
    low, high = rows[0].slot, rows[-1].slot + 1
    if not gathers(device) or high - low <= _DENSE * len(rows):
        return slice(low, high), [row.slot - low for row in rows], high - low
    return torch.tensor([row.slot for row in rows], device=device), list(range(len(rows))), len(rows)


def _padding(
    positions: Tensor, lens: list[int], places: list[int], num_rows: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    device = positions.device
    where = [place * width + i for place, num in zip(places, lens, strict=True) for i in range(num)]
    unpad = torch.tensor(where, device=device)
    pad = torch.zeros(num_rows * width, dtype=torch.long, device=device)
    pad[unpad] = torch.arange(len(where), device=device)
    positions_RN = torch.zeros(num_rows * width, dtype=torch.long, device=device)
    positions_RN[unpad] = positions
    return pad, unpad, positions_RN.view(num_rows, width)
