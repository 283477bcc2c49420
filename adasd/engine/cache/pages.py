"""A paged cache: slots take pages as they grow, and share those of a common prefix. Pure bookkeeping, no tensors.

A page holds the keys and values of ``page_size`` consecutive positions (PagedAttention, arXiv:2309.06180). Slots with
a common prefix refer to the same pages; a slot that writes to a shared page gets a copy of its own first. Pages of
ended sessions stay until they are needed, so that later prompts find them. Where all layers of a model see only a
window of the latest positions, a slot gives back the pages behind it as it goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from adasd.engine.cache.free_slots import FreeSlots
from adasd.engine.cache.layout import Held, PageCopy, SlotPlacement

NO_PAGE = 0
"""A page of zeros that no slot gets: where a table of pages is padded, it is read and masked."""

MIN_SHARED = 8
"""Tokens of a last, partly filled page from which on sharing it is worth the copy that follows."""

ROLL_BACK = 64
"""Positions kept behind the window, as a rejected block takes the slot back by as much."""

LONGEST_BLOCK = 256
"""Tokens beside a chunk of a prompt that one call may feed to a slot with a window."""


def pages_of_session(max_context: int, page_size: int, window: int | None, chunk: int) -> int:
    """Most pages that a session takes; ``chunk``: prompt tokens that one pass computes of it."""
    whole = -(-max_context // page_size)
    if window is None:
        return whole
    return min(whole, -(-(window + ROLL_BACK + chunk + LONGEST_BLOCK) // page_size) + 1)


class Pages:
    """A ``CacheLayout`` of ``num_pages`` pages; page p begins at place ``p * page_size``.

    Page 0 is ``NO_PAGE``, so pages are numbered from 1. Without ``reuse``, a freed slot gives its pages back at once.
    ``window``: latest positions that a token sees, its own included; None: all. ``chunk``: as ``pages_of_session``.
    """

    def __init__(
        self,
        num_slots: int,
        max_context: int,
        page_size: int,
        num_pages: int,
        reuse: bool = False,
        window: int | None = None,
        chunk: int = 0,
        roll_back: int = ROLL_BACK,
    ) -> None:
        self.num_slots, self.max_context, self.reuse = num_slots, max_context, reuse
        self._page_size, self.num_pages, self.window, self._roll_back = (
            page_size,
            num_pages,
            window,
            roll_back,
        )
        assert num_pages >= pages_of_session(max_context, page_size, window, chunk), "one session must fit"
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
        used = {page for slot, table in self._tables.items() if slot not in ended for page in table}
        return self.num_pages - len(used - {NO_PAGE})

    def num_needed(self, length: int) -> int:
        """Pages of ``length`` positions."""
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
        assert self.continues(slot, start), (slot, start, table)
        self._drop(table[num:])
        del table[num:]
        self._leave_behind(table, start)
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

    def continues(self, slot: int, length: int) -> bool:
        """Whether no page that a token at this position sees was given back."""
        table, behind = self._tables[slot], self._num_behind(length, 0)
        return not table or behind >= len(table) or table[behind] != NO_PAGE

    def free(self, slot: int, tokens: list[int]) -> None:
        self.cut(slot, len(tokens) if self.reuse else 0)
        if not self._tables[slot]:
            del self._tables[slot]
        self._slots.put(slot, tokens if self.reuse else [])

    def runs(self, slot: int, start: int, end: int) -> list[range]:
        return runs_of(self._tables[slot], self._page_size, start, end)

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
            num_behind = table.count(NO_PAGE)
            assert not any(table[:num_behind]), f"a page is missing before the window: {table}"
            pages = table[num_behind:]
            assert len(set(pages)) == len(pages), f"a page twice in one slot: {table}"
            for page in pages:
                num_users[page] += 1
        assert num_users == self._num_users, (num_users, self._num_users)
        unused = [page for page in range(1, self.num_pages + 1) if not num_users[page]]
        assert sorted(self._free) == unused, (self._free, unused)
        assert num_users[NO_PAGE] == 0

    def _num_behind(self, position: int, roll_back: int) -> int:
        """Pages that a token at ``position - roll_back``, or a later one, never sees."""
        if self.window is None:
            return 0
        return max(0, position - roll_back - self.window + 1) // self._page_size

    def _leave_behind(self, table: list[int], start: int) -> None:
        """Give back the pages behind the window of a table that is written from ``start`` on."""
        for i in range(min(self._num_behind(start, self._roll_back), len(table)) - 1, -1, -1):
            if table[i] == NO_PAGE:
                break
            self._drop([table[i]])
            table[i] = NO_PAGE

    def _num_shared(self, length: int) -> int:
        """How much of a common prefix of this length another slot shares."""
        rest = length % self._page_size
        return length - rest if rest < MIN_SHARED else length

    def _is_worth_sharing(self, slot: int, length: int) -> bool:
        """Whether a prefix of this slot can go on in another one, or in this one."""
        return self.continues(slot, length) and self.continues(slot, self._num_shared(length))

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
            if page != NO_PAGE:
                self._num_users[page] += 1

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
