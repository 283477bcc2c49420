"""Room in a paged cache for the calls of a step: older sessions first, and the newest are preempted.

A preempted session gives its pages back. Nothing is lost: its call, or its next one, feeds its tokens again. As only
newer sessions are preempted for a call, the oldest one always goes on. No tensors of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.slots import Slot, SlotTable
from adasd.engine.scheduler import Scheduled
from adasd.engine.work import Work

_log = logging.getLogger(__name__)


class PageRooms:
    """``adasd.engine.scheduler.Rooms`` in ``cache`` for the sessions of ``slots``."""

    def __init__(self, slots: SlotTable, cache: KVCache) -> None:
        self._slots, self._cache, self._has_window = slots, cache, any(cache.layout.windows)
        self.num_preempted = 0  # since the start

    def admit(
        self,
        work: Work,
        chunk: int,
        chosen: Sequence[Scheduled],
        waiting: Mapping[str, Work],
        *,
        must: bool = False,
    ) -> bool:
        """The newest sessions go first. Nothing is copied or preempted where every slot has its room."""
        slot, layout = work.slot, self._cache.layout
        end = work.end
        if self._has_window and (following := work.next_input(chunk)) and not following.num_logits:
            end = following.end
        while True:
            copies = layout.extend(slot.index, slot.cached_len, end)
            if copies is not None:
                break
            busy = {slot.index, *(one.work.slot.index for one in chosen)}
            newest = next((other for other in self._slots.newest_placed() if other.index not in busy), None)
            if newest is None or (newest.number < slot.number and not must):
                return False
            self._preempt(newest, waiting)
        try:
            for copy in copies:
                self._cache.copy_page(copy)
        except Exception:  # any device error, as in a forward pass
            _log.exception("a page could not be copied; the session's tokens are computed again")
            self._preempt(slot, waiting)
            return False
        return True

    def _preempt(self, slot: Slot, waiting: Mapping[str, Work]) -> None:
        self.num_preempted += 1
        _log.info("no page is free: session %s is computed again later", slot.session)
        work = waiting.get(slot.session)
        valid = list(slot.tokens) if work is None else work.preempted()
        self._slots.preempt(slot, valid)
