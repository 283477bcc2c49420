"""The slot table: pure bookkeeping under random use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adasd.engine.cache.prefix_cache import PrefixCache
from adasd.engine.cache.slots import SlotTable
from adasd.errors import InvalidRequest, Overloaded, StaleCache, UnknownSession


def test_the_lowest_free_row_is_taken_first():
    table = SlotTable(PrefixCache(3, 10))
    assert [table.place(table.open(name, 5), (1,)).slot for name in "abc"] == [0, 1, 2]
    table.close("b")
    table.close("a")
    assert table.place(table.open("d", 5), (1,)).slot == 0


def test_refusals_name_the_numbers_that_disagree():
    table = SlotTable(PrefixCache(1, 10))
    with pytest.raises(InvalidRequest, match=r"1 to 10 tokens, 11"):
        table.open("a", 11)
    table.open("a", 10).tokens = [1, 2, 3, 4]
    with pytest.raises(InvalidRequest, match="open already"):
        table.open("a", 5)
    with pytest.raises(Overloaded, match="all 1 slots"):
        table.open("b", 5)
    with pytest.raises(StaleCache, match="keep 5 cached tokens, the worker holds 4"):
        table.keep("a", 5)
    with pytest.raises(UnknownSession):
        table.keep("b", 0)


def test_integrity_notices_a_length_out_of_bounds_and_a_slot_taken_twice():
    table = SlotTable(PrefixCache(2, 10))
    slot = table.open("a", 5)
    table.place(slot, (1,))
    slot.tokens = [1] * 6
    with pytest.raises(AssertionError):
        table.check_integrity()
    slot.tokens, slot.index = [1] * 5, 1
    with pytest.raises(AssertionError):
        table.check_integrity()


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(-1, 8)), max_size=60), st.booleans())
def test_no_slot_is_ever_lost(moves, prefix_cache):
    """Open with a random length, feed, roll back, close: in any order."""
    table, open_now = SlotTable(PrefixCache(3, 7, prefix_cache)), {}
    for session, number in moves:
        if session not in open_now:
            try:
                open_now[session] = table.open(session, number)
            except (InvalidRequest, Overloaded):
                assert not 1 <= number <= 7 or len(open_now) == 3
        elif number < 0:
            table.close(session)
            del open_now[session]
        else:
            slot = open_now[session]
            if not slot.is_placed:
                table.place(slot, [1] * min(number + 1, slot.max_len))
            slot.tokens += [1] * min(number, slot.max_len - slot.cached_len)
            table.keep(session, slot.cached_len // 2)
        table.check_integrity()
        assert table.num_free == 3 - len(open_now)
        assert {slot.index for slot in open_now.values()}.isdisjoint(table.layout)
