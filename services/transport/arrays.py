"""Arrays of numbers as little-endian bytes. A buffer of the wrong length raises InvalidRequest."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from adasd.errors import InvalidRequest

S = TypeVar("S", bytes, tuple[int, ...], tuple[float, ...])


class Pieces(Generic[S]):
    """Takes pieces off a sequence that holds arrays of different lengths one after the other."""

    def __init__(self, what: str, content: S) -> None:
        """``what`` the entries are, for errors."""
        self._what, self._at = what, 0
        self._content: S = content

    def take(self, num: int) -> S:
        """The next ``num`` entries; InvalidRequest if there are fewer."""
        begin = self._at
        self._at = end = begin + num
        if end > len(self._content):
            raise InvalidRequest(
                f"{self._what}: {len(self._content)} entries, and the records want {end} or more"
            )
        return self._content[begin:end]

    def end(self) -> None:
        """InvalidRequest unless everything was taken."""
        if self._at != len(self._content):
            raise InvalidRequest(
                f"{self._what}: {len(self._content)} entries, but the records want {self._at}"
            )


def records(layout: struct.Struct, buffer: bytes) -> list[tuple[Any, ...]]:
    """The records in ``buffer``, one after the other."""
    if len(buffer) % layout.size:
        raise InvalidRequest(f"{len(buffer)} bytes are no whole number of records of {layout.size} bytes")
    return list(layout.iter_unpack(buffer))


def pack_ids(ids: Sequence[int]) -> bytes:
    """Token ids as int32; an id outside 32 bits raises InvalidRequest."""
    try:
        return struct.pack(f"<{len(ids)}i", *ids)
    except struct.error:
        raise InvalidRequest(
            f"token ids must be integers of 32 bits; got {min(ids)} to {max(ids)}", "token_ids"
        ) from None


def unpack_ids(buffer: bytes) -> tuple[int, ...]:
    """The inverse of pack_ids."""
    return struct.unpack(f"<{_count(buffer, 4, 'token ids')}i", buffer)


def pack_reals(values: Sequence[float]) -> bytes:
    """Floats as float64, so that nothing is rounded in transit."""
    return struct.pack(f"<{len(values)}d", *values)


def unpack_reals(buffer: bytes) -> tuple[float, ...]:
    """The inverse of pack_reals."""
    return struct.unpack(f"<{_count(buffer, 8, 'reals')}d", buffer)


def pack_numbers(numbers: Sequence[int]) -> bytes:
    """Numbers of asks or sessions as int64."""
    return struct.pack(f"<{len(numbers)}q", *numbers)


def unpack_numbers(buffer: bytes) -> tuple[int, ...]:
    """The inverse of pack_numbers."""
    return struct.unpack(f"<{_count(buffer, 8, 'numbers')}q", buffer)


@lru_cache(maxsize=4096)  # few different ones occur
def unpack_flags(buffer: bytes) -> tuple[bool, ...]:
    """Booleans from one byte each; ``bytes(flags)`` is the inverse."""
    return tuple(map(bool, buffer))


def pack_ids_array(ids_KR: NDArray[np.int32]) -> bytes:
    """An array of ids in row-major order, as int32."""
    return ids_KR.astype("<i4", copy=False).tobytes()


def pack_floats_array(values_KR: NDArray[np.float32]) -> bytes:
    """An array of floats in row-major order, as float32."""
    return values_KR.astype("<f4", copy=False).tobytes()


def unpack_ids_array(buffer: bytes, row_len: int) -> NDArray[np.int32]:
    """[K, R] int32 with R = row_len; owns its memory and is writable."""
    return _rows(buffer, row_len, "row ids").view("<i4").astype(np.int32)


def unpack_floats_array(buffer: bytes, row_len: int) -> NDArray[np.float32]:
    """[K, R] float32 with R = row_len; owns its memory and is writable."""
    return _rows(buffer, row_len, "row logprobs").view("<f4").astype(np.float32)


def expect_len(what: str, actual: int, expected: int) -> None:
    """InvalidRequest unless the two are equal."""
    if actual != expected:
        raise InvalidRequest(f"{what}: got {actual}, expected {expected}")


def _rows(buffer: bytes, row_len: int, what: str) -> NDArray[np.uint8]:
    if row_len < 1 or len(buffer) % (4 * row_len):
        raise InvalidRequest(
            f"{what}: {len(buffer)} bytes are no whole number of rows of {row_len} entries of 4 bytes", "rows"
        )
    return np.frombuffer(buffer, np.uint8).reshape(-1, 4 * row_len)


def _count(buffer: bytes, size: int, what: str) -> int:
    if len(buffer) % size:
        raise InvalidRequest(f"{what}: {len(buffer)} bytes are no whole number of entries of {size} bytes")
    return len(buffer) // size
