"""What waits to leave on a link, as frames that fit a message."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque

from adasd.errors import InvalidRequest
from services.transport.options import MAX_FRAME_BYTES, MAX_PART_BYTES


class FrameBuffer(ABC):
    """Collects parts. Once they make a full frame, later ones go into the next."""

    def __init__(self) -> None:
        self._full: deque[bytes] = deque()
        self._num_bytes = 0  # of the parts that are in no full frame

    def __bool__(self) -> bool:
        return self._num_bytes > 0 or bool(self._full)

    @property
    def num_bytes(self) -> int:
        """Bytes of all parts that wait."""
        return self._num_bytes + sum(map(len, self._full)) if self._full else self._num_bytes

    def take(self) -> bytes:
        """The oldest frame."""
        if self._full:
            return self._full.popleft()
        self._num_bytes = 0
        return self._frame()

    def _added(self, num_bytes: int) -> None:
        """A part of ``num_bytes`` > 0 was added."""
        self._num_bytes += num_bytes
        if self._num_bytes >= MAX_FRAME_BYTES:
            self._full.append(self._frame())
            self._num_bytes = 0

    @abstractmethod
    def _frame(self) -> bytes:
        """Encode the parts that are in no full frame, and forget them."""


def checked_size(*parts: bytes) -> int:
    """Bytes of one ask or reply; InvalidRequest if a frame could not hold it."""
    num_bytes = sum(map(len, parts))
    if num_bytes > MAX_PART_BYTES:
        raise InvalidRequest(
            f"a message of {num_bytes} bytes is too long; at most {MAX_PART_BYTES} are sent at once"
        )
    return num_bytes
