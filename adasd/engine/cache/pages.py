"""A paged cache: slots take pages as they grow, and share those of a common prefix. Pure bookkeeping, no tensors.

A page holds the keys and values of ``page_size`` consecutive positions, in the layers of one table (PagedAttention,
arXiv:2309.06180). Slots with a common prefix refer to the same pages; a slot that writes to a shared page gets a copy
of its own first. Pages of ended sessions stay until they are needed, so that later prompts find them. So do pages
behind the window of a table whose layers see only the latest positions; they go first.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from adasd.engine.cache.free_slots import FreeSlots
from adasd.engine.cache.layers import Windows
from adasd.engine.cache.layout import Held, PageCopy, SlotPlacement

NO_PAGE = 0
"""A page of zeros that no slot gets: where a table of pages is padded, it is read and masked."""

MIN_SHARED = 8
"""Tokens of a last, partly filled page from which on sharing it is worth the copy that follows."""

ROLL_BACK = 64
"""Positions kept behind the window, as a rejected block takes the slot back by as much."""

LONGEST_BLOCK = 256
"""Tokens beside a chunk of a prompt that one call may feed to a slot with a window."""


@dataclass(frozen=True, slots=True)
class PageNeeds:
    """How many pages a session takes; ``chunk``: prompt tokens that one pass computes of it."""

    page_size: int
    windows: Windows
    chunk: int

    def pages_of(self, context: int) -> int:
        """Most pages that a session of this length takes."""
        whole = -(-context // self.page_size)
        return sum(
            whole
            if window is None
            else min(whole, -(-(window + ROLL_BACK + self.chunk + LONGEST_BLOCK) // self.page_size) + 1)
            for window in self.windows
        )

    def context_of(self, num_pages: int, limit: int) -> int:
        """Longest context, up to ``limit``, of which so many pages hold a session; 0: of none."""
        contexts = range(self.page_size, limit + self.page_size, self.page_size)
        return min(limit, self.page_size * bisect_right(contexts, num_pages, key=self.pages_of))


class Pages:
    """A ``CacheLayout`` of ``num_pages`` pages; page p begins at place ``p * page_size``.

    Page 0 is ``NO_PAGE``, so pages are numbered from 1. Without ``reuse``, a freed slot gives its pages back at once.
    ``windows``: as ``CacheLayout``. ``chunk``: as ``PageNeeds``.
    """

    def __init__(
        self,
        num_slots: int,
        max_context: int,
        page_size: int,
        num_pages: int,
        reuse: bool = False,
        windows: Windows = (None,),
        chunk: int = 0,
        roll_back: int = ROLL_BACK,
    ) -> None:
        self.num_slots, self.max_context, self.reuse = num_slots, max_context, reuse
        self._page_size, self.num_pages, self.windows, self._roll_back = (
            page_size,
            num_pages,
            windows,
            roll_back,
        )
        assert num_pages >= PageNeeds(page_size, windows, chunk).pages_of(max_context), "one session must fit"
        self.num_places = (num_pages + 1) * page_size
        self._slots = FreeSlots(num_slots)
        # slot -> its pages, of each table; also of free slots that hold tokens
        self._tables: dict[int, tuple[list[int], ...]] = {}
        self._starts: dict[int, int] = {}  # slot in use -> position that it goes on from
        self._num_users = [0] * (num_pages + 1)  # slots that refer to a page
        self._num_open = [0] * (num_pages + 1)  # those of them that are in use
        self.num_used_blocks = 0  # pages that slots in use refer to
        self._free = list(range(num_pages, 0, -1))  # the last one goes first

    def __iter__(self) -> Iterator[int]:
        return iter(self._slots)

    @property
    def page_size(self) -> int:
        return self._page_size

    @property
    def num_blocks(self) -> int:
        return self.num_pages

    @property
    def num_free_pages(self) -> int:
        """Pages that nobody needs: free ones, those behind a window, and those of ended sessions only."""
        used = {
            page
            for slot, start in self._starts.items()
            for table, window in zip(self._tables[slot], self.windows, strict=True)
            for page in table[self._num_behind(window, start, self._roll_back) :]
        }
        return self.num_pages - len(used - {NO_PAGE})

    def num_needed(self, length: int) -> int:
        """Pages of ``length`` positions, in one table."""
        return -(-length // self._page_size)

    def allocate(self, prompt: Sequence[int], in_use: Iterable[Held]) -> SlotPlacement:
        """As the protocol says; takes no page. The slot takes another one over if it reuses all of its tokens."""
        slots, held = self._slots, self._slots.held
        source, num_cached = (-1, 0)
        if self.reuse:
            source, num_cached = slots.longest_prefix(list(prompt[:-1]), in_use, self._is_worth_sharing)
        slot = slots.next()
        if source in held and num_cached == len(held[source]):
            slot = source
        if source != slot:
            num_cached = self._num_shared(num_cached)
        shared = self._tables[source] if num_cached else ([],) * len(self.windows)
        tables = tuple(table[: self.num_needed(num_cached)] for table in shared)
        for table in tables:
            self._use(table)
            self._count_open(table, 1)
        for table in self._tables.pop(slot, ()):
            self._drop(table)
        slots.touch(source)
        slots.take(slot)
        self._tables[slot], self._starts[slot] = tables, num_cached
        return SlotPlacement(slot, num_cached)

    def extend(self, slot: int, start: int, end: int) -> list[PageCopy] | None:
        """As the protocol says. Pages that nobody needs are given up, as ``_reclaim`` says."""
        tables, first, num = self._tables[slot], start // self._page_size, self.num_needed(end)
        assert self._continues(slot, start), (slot, start, tables)
        self.cut(slot, end)
        self._starts[slot] = start
        while sum(self._num_missing(table, first, num) for table in tables) > len(self._free):
            if not self._reclaim(slot):
                return None
        copies = []
        for table in tables:
            for i in range(first, len(table)):
                if self._num_users[table[i]] == 1:
                    continue
                shared, table[i] = table[i], self._take()
                self._leave([shared])
                if i == first and start % self._page_size:
                    copies.append(PageCopy(self._places(shared), self._places(table[i])))
            table += [self._take() for _ in range(num - len(table))]
        return copies

    def cut(self, slot: int, length: int) -> None:
        num = self.num_needed(length)
        for table in self._tables[slot]:
            self._leave(table[num:])
            del table[num:]

    def roll_back(self, slot: int, length: int) -> bool:
        self._starts[slot] = min(self._starts[slot], length)
        return self._continues(slot, length)

    def free(self, slot: int, tokens: list[int]) -> None:
        del self._starts[slot]
        self.cut(slot, len(tokens) if self.reuse else 0)
        for table in self._tables[slot]:
            self._count_open(table, -1)
        if not self._tables[slot][0]:
            del self._tables[slot]
        self._slots.put(slot, tokens if self.reuse else [])

    def runs(self, slot: int, start: int, end: int, table: int = 0) -> list[range]:
        return runs_of(self._tables[slot][table], self._page_size, start, end)

    def owned(self, slot: int, start: int) -> list[range]:
        first, owned = start // self._page_size, []
        for table in self._tables[slot]:
            places = [self._places(page) for page in table[first:] if self._num_users[page] == 1]
            if places and self._num_users[table[first]] == 1:
                places[0] = places[0][start % self._page_size :]
            owned += places
        return owned

    def pages(self, slot: int, table: int = 0) -> Sequence[int]:
        return self._tables[slot][table]

    def held(self) -> Iterable[Held]:
        """Free slots that still hold tokens, least recently used first."""
        return self._slots.held.items()

    def check_integrity(self) -> None:
        """Raise AssertionError if a page is lost, has two roles, or its users are miscounted."""
        num_users, num_open = [0] * (self.num_pages + 1), [0] * (self.num_pages + 1)
        for slot, tables in self._tables.items():
            pages = []
            for table in tables:
                num_behind = table.count(NO_PAGE)
                assert not any(table[:num_behind]), f"a page is missing before the window: {table}"
                pages += table[num_behind:]
            assert len(set(pages)) == len(pages), f"a page twice in one slot: {tables}"
            assert len(set(map(len, tables))) == 1, f"tables of different lengths: {tables}"
            for page in pages:
                num_users[page] += 1
                num_open[page] += slot in self._starts
        assert (num_open, sum(map(bool, num_open))) == (self._num_open, self.num_used_blocks)
        assert num_users == self._num_users, (num_users, self._num_users)
        unused = [page for page in range(1, self.num_pages + 1) if not num_users[page]]
        assert sorted(self._free) == unused, (self._free, unused)
        assert num_users[NO_PAGE] == 0
        assert self._tables.keys() == {*self._starts, *self._slots.held}, (self._tables, self._starts)

    def _continues(self, slot: int, length: int) -> bool:
        """Whether no page that a token at this position sees was given back."""
        return all(
            (behind := self._num_behind(window, length, 0)) >= len(table) or table[behind] != NO_PAGE
            for table, window in zip(self._tables[slot], self.windows, strict=True)
        )

    def _num_behind(self, window: int | None, position: int, roll_back: int) -> int:
        """Pages that a token at ``position - roll_back``, or a later one, never sees through this window."""
        return 0 if window is None else max(0, position - roll_back - window + 1) // self._page_size

    def _reclaim(self, slot: int) -> bool:
        """Give up pages that only later prompts could use; False: there are none.

        Those behind a window first, of this slot, then of others; then all of the ended session unused for longest.
        """
        if any(self._leave_behind(other) for other in (slot, *self._starts)):
            return True
        oldest = next(iter(self._slots.held), None)
        if oldest is None:
            return False
        for table in self._tables.pop(oldest):
            self._drop(table)
        self._slots.take(oldest)
        self._slots.put(oldest, [])
        return True

    def _leave_behind(self, slot: int) -> bool:
        """Give back the pages behind the slot's windows; False: there are none."""
        found = False
        for table, window in zip(self._tables[slot], self.windows, strict=True):
            behind = min(self._num_behind(window, self._starts[slot], self._roll_back), len(table))
            for i in range(behind - 1, -1, -1):
                if table[i] == NO_PAGE:
                    break
                self._leave([table[i]])
                table[i], found = NO_PAGE, True
        return found

    def _num_shared(self, length: int) -> int:
        """How much of a common prefix of this length another slot shares."""
        rest = length % self._page_size
        return length - rest if rest < MIN_SHARED else length

    def _is_worth_sharing(self, slot: int, length: int) -> bool:
        """Whether a prefix of this slot can go on in another one, or in this one."""
        return self._continues(slot, length) and self._continues(slot, self._num_shared(length))

    def _num_missing(self, table: Sequence[int], first: int, num: int) -> int:
        """Free pages that it takes to write pages ``first`` to ``num`` of a table."""
        shared = sum(self._num_users[page] > 1 for page in table[first:])
        return num - len(table) + shared

    def _take(self) -> int:
        page = self._free.pop()
        self._num_users[page] = 1
        self._count_open([page], 1)
        return page

    def _use(self, pages: Iterable[int]) -> None:
        for page in pages:
            if page != NO_PAGE:
                self._num_users[page] += 1

    def _leave(self, pages: Sequence[int]) -> None:
        """A slot in use gives these up."""
        self._count_open(pages, -1)
        self._drop(pages)

    def _count_open(self, pages: Iterable[int], change: int) -> None:
        """So many more slots in use refer to these pages: one, or minus one."""
        for page in pages:
            if page == NO_PAGE:
                continue
            was_used = self._num_open[page] > 0
            self._num_open[page] += change
            self.num_used_blocks += (self._num_open[page] > 0) - was_used

    def _drop(self, pages: Iterable[int]) -> None:
        for page in pages:
            if page == NO_PAGE:
                continue
            self._num_users[page] -= 1
            if not self._num_users[page]:
                self._free.append(page)

    def _places(self, page: int) -> range:
        return range(page * self._page_size, (page + 1) * self._page_size)


def runs_of(table: Sequence[int], page_size: int, start: int, end: int) -> list[range]:
    """The places of positions ``[start, end)`` of a slot with these pages, in order."""
    found = []
    while start < end:
        in_page = start % page_size
        num = min(page_size - in_page, end - start)
        first = table[start // page_size] * page_size + in_page
        found.append(range(first, first + num))
        start += num
    return found
