"""What the ranks do next, as rank 0 sends it: one plan, one message. No torch.

A plan is sent as packed 64-bit integers: a kind, then its numbers. A pass carries all that ``ForwardBatch`` reads, the
pages of its slots included, so the ranks that follow need no books of their own and cannot disagree with rank 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from adasd.engine.work import StepInput

_FIELDS = 7
"""Numbers per sequence of a pass: slot, start, tokens, logits, scored positions, tables, pages of each table."""


@dataclass(frozen=True, slots=True)
class NewCache:
    """Make a cache of zeros; the last one is given up."""

    num_slots: int
    max_context: int
    num_places: int
    page_size: int | None  # None: slots are contiguous
    windows: tuple[int | None, ...]  # of each table of pages


@dataclass(frozen=True, slots=True)
class Pass:
    """Run these sequences through all layers; ``pages`` of each one's slot, of each table, are as many in each.

    They are empty where slots are contiguous.
    """

    inputs: tuple[StepInput, ...]
    pages: tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True, slots=True)
class CopyPlaces:
    """Copy the keys and values of some places to others."""

    source: range
    target: range


@dataclass(frozen=True, slots=True)
class ZeroPlaces:
    """Zero the keys and values of some places."""

    places: range


Plan = NewCache | Pass | CopyPlaces | ZeroPlaces


class _Kind(IntEnum):
    CACHE, PASS, COPY, ZERO = range(4)


def packed(plan: Plan) -> bytes:
    """The plan as a message."""
    match plan:
        case NewCache(num_slots, max_context, num_places, page_size, windows):
            sizes = [num_slots, max_context, num_places, page_size or 0]
            return _bytes([_Kind.CACHE, *sizes, *(window or 0 for window in windows)])
        case CopyPlaces(source, target):
            return _bytes([_Kind.COPY, source.start, source.stop, target.start, target.stop])
        case ZeroPlaces(places):
            return _bytes([_Kind.ZERO, places.start, places.stop])
        case Pass(inputs, pages):
            numbers = [int(_Kind.PASS), len(inputs)]
            for one, tables in zip(inputs, pages, strict=True):
                numbers += [one.slot, one.start, len(one.tokens), one.num_logits, one.num_scored]
                numbers += [len(tables), len(tables[0])]
            for one, tables in zip(inputs, pages, strict=True):
                numbers += one.tokens
                for table in tables:
                    numbers += table
            return _bytes(numbers)


def unpacked(message: bytes) -> Plan:
    """The plan of a message; ValueError if it is none."""
    kind, *numbers = np.frombuffer(message, np.int64).tolist()
    match kind:
        case _Kind.CACHE:
            num_slots, max_context, num_places, page_size, *windows = numbers
            given = tuple(window or None for window in windows)
            return NewCache(num_slots, max_context, num_places, page_size or None, given)
        case _Kind.COPY:
            return CopyPlaces(range(*numbers[:2]), range(*numbers[2:]))
        case _Kind.ZERO:
            return ZeroPlaces(range(*numbers))
        case _Kind.PASS:
            return _pass(numbers[0], numbers[1:])
    raise ValueError(f"there is no plan of kind {kind}")


def _pass(num: int, numbers: list[int]) -> Pass:
    at = num * _FIELDS
    inputs, pages = [], []
    for first in range(0, at, _FIELDS):
        slot, start, num_tokens, num_logits, num_scored, num_tables, num = numbers[first : first + _FIELDS]
        tokens, at = numbers[at : at + num_tokens], at + num_tokens
        inputs.append(StepInput(slot, start, tokens, num_logits, num_scored))
        pages.append(tuple(tuple(numbers[at + i * num : at + (i + 1) * num]) for i in range(num_tables)))
        at += num_tables * num
    return Pass(tuple(inputs), tuple(pages))


def _bytes(numbers: Sequence[int]) -> bytes:
    return np.array(numbers, np.int64).tobytes()
