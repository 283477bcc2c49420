"""Which session owns which row of the cache, and how much of that row counts. Pure bookkeeping, no tensors.

A cached length only says how much of a row is valid; shrinking it is the whole roll-back.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from adasd.errors import InvalidRequest, Overloaded, StaleCache, UnknownSession


@dataclass(slots=True)
class Slot:
    """One row of the cache. Invariant: ``0 <= cached_len <= max_len <= max_context``."""

    index: int
    session: str
    max_len: int  # tokens that the session may ever hold
    cached_len: int = 0  # tokens whose keys and values are valid


class SlotTable:
    """Slots by session. The lowest free index is taken first, so that the rows in use lie close together."""

    def __init__(self, num_slots: int, max_context: int) -> None:
        self.num_slots, self.max_context = num_slots, max_context
        self._by_session: dict[str, Slot] = {}
        self._free = list(range(num_slots))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def __contains__(self, session: str) -> bool:
        return session in self._by_session

    def open(self, session: str, max_len: int) -> Slot:
        """Take a slot; raises InvalidRequest (length, or open already) or Overloaded."""
        if not 1 <= max_len <= self.max_context:
            raise InvalidRequest(
                f"a slot holds 1 to {self.max_context} tokens, {max_len} were asked for; "
                "shorten the prompt or lower max_tokens",
                "max_tokens",
            )
        if session in self._by_session:
            raise InvalidRequest(f"session {session} is open already; close it first")
        if not self._free:
            raise Overloaded(f"all {self.num_slots} slots of the worker are in use")
        slot = Slot(heapq.heappop(self._free), session, max_len)
        self._by_session[session] = slot
        return slot

    def get(self, session: str) -> Slot:
        """Raises UnknownSession."""
        try:
            return self._by_session[session]
        except KeyError:
            raise UnknownSession(session) from None

    def keep(self, session: str, keep_len: int) -> Slot:
        """Roll back to ``keep_len`` tokens; raises StaleCache if fewer are cached."""
        slot = self.get(session)
        if not 0 <= keep_len <= slot.cached_len:
            raise StaleCache(session, keep_len, slot.cached_len)
        slot.cached_len = keep_len
        return slot

    def close(self, session: str) -> None:
        """Free the slot; idempotent."""
        slot = self._by_session.pop(session, None)
        if slot is not None:
            heapq.heappush(self._free, slot.index)

    def check_integrity(self) -> None:
        """Raise AssertionError if a slot is lost, taken twice, or a length is out of bounds."""
        taken = [slot.index for slot in self._by_session.values()]
        assert sorted(taken + self._free) == list(range(self.num_slots)), (taken, self._free)
        for session, slot in self._by_session.items():
            assert slot.session == session, (slot, session)
            assert 0 <= slot.cached_len <= slot.max_len <= self.max_context, slot
