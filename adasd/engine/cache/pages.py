"""A paged cache: slots take pages as they grow, and share those of a common prefix. Pure bookkeeping, no tensors.

A page holds the keys and values of ``page_size`` consecutive positions (PagedAttention, arXiv:2309.06180). Slots with
a common prefix refer to the same pages; a slot that writes to a shared page gets a copy of its own first. Pages of
ended sessions stay until they are needed, so that later prompts find them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from adasd.engine.cache.free_slots import FreeSlots
from adasd.engine.cache.layout import Held, PageCopy, SlotPlacement

NO_PAGE = 0
"""A page of zeros that no slot gets: where a table of pages is padded, it is read and masked."""

MIN_SHARED = 8
"""Tokens of a last, partly filled page from which on sharing it is worth the copy that follows."""


class Pages:
    """A ``CacheLayout`` of ``num_pages`` pages; page p begins at place ``p * page_size``.

    Page 0 is ``NO_PAGE``, so pages are numbered from 1. Without ``reuse``, a freed slot gives its pages back at once.
    """

    def __init__(
        self, num_slots: int, max_context: int, page_size: int, num_pages: int, reuse: bool = False
    ) -> None:
        self.num_slots, self.max_context, self.reuse = num_slots, max_context, reuse
        self._page_size, self.num_pages = page_size, num_pages
        assert num_pages >= self.num_needed(max_context), "one session must fit"
        self.num_places = (num_pages + 1) * page_size
        self._slots = FreeSlots(num_slots)
        self._tables: dict[int, list[int]] = {}  # slot -> its pages; also of free slots that hold tokens
        self._num_users = [0] * (num_pages + 1)  # slots that refer to a page
        self._free = list(range(num_pages, 0, -1))  # the last one goes first

    def __iter__(self) -> Iterator[int]:
        return iter(self._slots)

    @property
    def page_size(self) -> int:
        return self._page_size

    @property
    def num_free_pages(self) -> int:
        """Pages that nobody needs: free ones, and those of ended sessions only."""
        ended = self._slots.held
        return self.num_pages - len(
            {page for slot, table in self._tables.items() if slot not in ended for page in table}
        )

    def num_needed(self, length: int) -> int:
        """Pages of ``length`` positions."""
        return -(-length // self._page_size)

    def allocate(self, prompt: Sequence[int], in_use: Iterable[Held]) -> SlotPlacement:
        """As the protocol says; takes no page. The slot takes another one over if it reuses all of its tokens."""
        slots, held = self._slots, self._slots.held
        source, num_cached = slots.longest_prefix(list(prompt[:-1]), in_use) if self.reuse else (-1, 0)
        slot = slots.next()
        if source in held and num_cached == len(held[source]):
            slot = source
        if source != slot and num_cached % self._page_size < MIN_SHARED:
            num_cached -= num_cached % self._page_size
        table = self._tables.get(source, [])[: self.num_needed(num_cached)]
        self._use(table)
        self._drop(self._tables.pop(slot, []))
        slots.touch(source)
        slots.take(slot)
        self._tables[slot] = table
        return SlotPlacement(slot, num_cached)

    def extend(self, slot: int, start: int, end: int) -> list[PageCopy] | None:
        """As the protocol says. Pages of ended sessions are given up, the least recently used first."""
        table, first, num = self._tables[slot], start // self._page_size, self.num_needed(end)
        self._drop(table[num:])
        del table[num:]
        while self._num_missing(table, first, num) > len(self._free):
            if not self._slots.held:
                return None
            self._give_up(next(iter(self._slots.held)))
        copies = []
        for i in range(first, len(table)):
            if self._num_users[table[i]] == 1:
                continue
            shared, table[i] = table[i], self._take()
            self._drop([shared])
            if i == first and start % self._page_size:
                copies.append(PageCopy(self._places(shared), self._places(table[i])))
        table += [self._take() for _ in range(num - len(table))]
        return copies

    def cut(self, slot: int, length: int) -> None:
        table, num = self._tables[slot], self.num_needed(length)
        self._drop(table[num:])
        del table[num:]

    def free(self, slot: int, tokens: list[int]) -> None:
        self.cut(slot, len(tokens) if self.reuse else 0)
        if not self._tables[slot]:
            del self._tables[slot]
        self._slots.put(slot, tokens if self.reuse else [])

    def runs(self, slot: int, start: int, end: int) -> list[range]:
        size, table = self._page_size, self._tables[slot]
        found = []
        while start < end:
            in_page = start % size
            num = min(size - in_page, end - start)
            first = table[start // size] * size + in_page
            found.append(range(first, first + num))
            start += num
        return found

    def owned(self, slot: int, start: int) -> list[range]:
        table, first = self._tables[slot], start // self._page_size
        places = [self._places(page) for page in table[first:] if self._num_users[page] == 1]
        if places and self._num_users[table[first]] == 1:
            places[0] = places[0][start % self._page_size :]
        return places

    def pages(self, slot: int) -> Sequence[int]:
        return self._tables[slot]

    def held(self) -> Iterable[Held]:
        """Free slots that still hold tokens, least recently used first."""
        return self._slots.held.items()

    def check_integrity(self) -> None:
        """Raise AssertionError if a page is lost, has two roles, or its users are miscounted."""
        num_users = [0] * (self.num_pages + 1)
        for table in self._tables.values():
            assert len(set(table)) == len(table), f"a page twice in one slot: {table}"
            for page in table:
                num_users[page] += 1
        assert num_users == self._num_users, (num_users, self._num_users)
        unused = [page for page in range(1, self.num_pages + 1) if not num_users[page]]
        assert sorted(self._free) == unused, (self._free, unused)
        assert num_users[NO_PAGE] == 0

    def _num_missing(self, table: Sequence[int], first: int, num: int) -> int:
        """Free pages that it takes to write pages ``first`` to ``num`` of a table."""
        shared = sum(self._num_users[page] > 1 for page in table[first:])
        return num - len(table) + shared

    def _give_up(self, slot: int) -> None:
        """Empty a free slot that holds tokens."""
        self._drop(self._tables.pop(slot))
        self._slots.take(slot)
        self._slots.put(slot, [])

    def _take(self) -> int:
        page = self._free.pop()
        self._num_users[page] = 1
        return page

    def _use(self, pages: Iterable[int]) -> None:
        for page in pages:
            self._num_users[page] += 1

    def _drop(self, pages: Iterable[int]) -> None:
        for page in pages:
            self._num_users[page] -= 1
            if not self._num_users[page]:
                self._free.append(page)

    def _places(self, page: int) -> range:
        return range(page * self._page_size, (page + 1) * self._page_size)
