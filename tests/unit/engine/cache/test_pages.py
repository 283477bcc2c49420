"""The allocator of pages against a model that keeps every written token: nothing is lost, shared pages never change.

With windows, what the next token sees is never lost, and where room is short, no slot keeps more pages in a table than
its window, roll-back and input need.
"""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adasd.engine.cache.layout import PageCopy, SlotPlacement
from adasd.engine.cache.pages import NO_PAGE, Pages

SIZE, CONTEXT, SLOTS, ROLL_BACK, CHUNK = 4, 22, 5, 2, 6


class Machine(RuleBasedStateMachine):
    """Sessions of few different tokens come, grow, roll back and end; ``memory`` is what would lie in the cache."""

    @initialize(
        num_pages=st.integers(6, 14),
        reuse=st.booleans(),
        windows=st.sampled_from([(None,), (1,), (6,), (None, 3), (None, None, 11), (None, 1, 6)]),
    )
    def start(self, num_pages, reuse, windows):
        self.windows = windows
        num_pages *= len(windows)
        self.pages = Pages(SLOTS, CONTEXT, SIZE, num_pages, reuse, windows, CHUNK, ROLL_BACK)
        self.memory = {}  # place -> table and the tokens up to it, which keys and values depend on
        self.texts = {}  # slot in use -> its tokens
        self.written = {}  # slot in use -> where it goes on
        self.safe = {}  # slot in use -> a roll-back to here, or less far, loses nothing

    @property
    def tables(self):
        return range(len(self.windows))

    def places(self, slot, start, end, table):
        return [place for run in self.pages.runs(slot, start, end, table) for place in run]

    def held_places(self, slot):
        """Of all tables, but for the pages that were given back."""
        length = len(self.texts[slot])
        return {
            place for k in self.tables for place in self.places(slot, self.first_held(slot, k), length, k)
        }

    def first_held(self, slot, table):
        """Position of the first token whose page was not given back."""
        return SIZE * list(self.pages.pages(slot, table)).count(NO_PAGE)

    def check_windows(self, slot, start):
        """Of a slot that is written from this position on."""
        for table, window in enumerate(self.windows):
            first = self.first_held(slot, table)
            assert first <= (0 if window is None else max(0, start + 1 - window)), (
                "the first written token sees the rest"
            )

    def check_nothing_is_kept_in_vain(self):
        """When there was no room: nothing of ended sessions, and of others what they still see."""
        assert not list(self.pages.held())
        for slot, start in self.written.items():
            for table, window in enumerate(self.windows):
                seen = 0 if window is None else max(0, start - ROLL_BACK - window + 1)
                assert self.first_held(slot, table) + SIZE > min(
                    seen, len(self.pages.pages(slot, table)) * SIZE
                )

    def write(self, slot, start, tokens):
        """As a forward pass: make room, copy, write. Returns whether there was room."""
        copies = self.pages.extend(slot, start, start + len(tokens))
        self.written[slot] = start
        if copies is None:
            self.check_nothing_is_kept_in_vain()
            return False
        shared = {place for other in self.texts if other != slot for place in self.held_places(other)}
        self.check_windows(slot, start)
        self.safe[slot] = max(self.safe[slot], start - ROLL_BACK)
        for copy in copies:
            assert isinstance(copy, PageCopy)
            for source, target in zip(copy.source, copy.target, strict=True):
                self.memory[target] = self.memory.get(source)
        for table in self.tables:
            text = self.texts[slot][:start]
            places = self.places(slot, start, start + len(tokens), table)
            for place, token in zip(places, tokens, strict=True):
                assert place not in shared, "written, although another session reads it"
                text = [*text, token]
                self.memory[place] = table, tuple(text)
        self.texts[slot] = text
        return True

    @precondition(lambda self: len(self.texts) < SLOTS)
    @rule(prompt=st.lists(st.integers(0, 1), min_size=1, max_size=CONTEXT))
    def come(self, prompt):
        placement = self.pages.allocate(prompt, list(self.texts.items()))
        assert placement.copy_from is None
        assert placement.slot not in self.texts
        assert placement.num_cached < len(prompt)
        assert self.pages.reuse or not placement.num_cached
        self.texts[placement.slot] = list(prompt[: placement.num_cached])
        self.safe[placement.slot] = placement.num_cached
        self.written[placement.slot] = placement.num_cached
        for first in range(placement.num_cached, len(prompt), CHUNK):
            if not self.write(placement.slot, first, prompt[first : first + CHUNK]):
                self.end_of(placement.slot)
                break

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), tokens=st.lists(st.integers(0, 1), min_size=1, max_size=9))
    def grow(self, data, tokens):
        """Roll back a little or far, then write."""
        slot = data.draw(st.sampled_from(sorted(self.texts)))
        start = data.draw(st.integers(0, len(self.texts[slot])))
        before = list(self.texts[slot])
        if not self.roll_back(slot, start):
            return
        if not self.write(slot, start, tokens[: CONTEXT - start]):
            assert self.pages.num_free_pages < self.pages.num_needed(CONTEXT) * len(self.windows)
            self.texts[slot] = before[:start]

    def roll_back(self, slot, start):
        """False: it costs too much, and the slot is given up."""
        if self.pages.roll_back(slot, start):
            self.written[slot] = min(self.written[slot], start)
            self.safe[slot] = min(self.safe[slot], start)
            return True
        assert any(self.windows), "everything is kept"
        assert start < self.safe[slot], "a small roll-back costs nothing"
        self.end_of(slot)
        return False

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def go_back(self, data):
        """And let others write first."""
        slot = data.draw(st.sampled_from(sorted(self.texts)))
        start = data.draw(st.integers(0, len(self.texts[slot])))
        if self.roll_back(slot, start):
            del self.texts[slot][start:]

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def end(self, data):
        self.end_of(data.draw(st.sampled_from(sorted(self.texts))))

    def end_of(self, slot):
        self.pages.free(slot, self.texts.pop(slot))
        del self.written[slot]

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def fail(self, data):
        """A failed pass: what the slot alone holds is scrubbed, and pages behind the valid ones go back."""
        slot = data.draw(st.sampled_from(sorted(self.texts)))
        length = data.draw(st.integers(0, len(self.texts[slot])))
        del self.texts[slot][length:]
        for run in self.pages.owned(slot, length):
            for place in run:
                self.memory[place] = "scrubbed"
        self.pages.cut(slot, length)

    @invariant()
    def everything_valid_is_as_it_was_written(self):
        self.pages.check_integrity()
        held = dict(self.pages.held())
        assert not held.keys() & self.texts.keys()
        assert sorted([*self.texts, *self.pages]) == list(range(SLOTS))
        for slot, text in (*self.texts.items(), *held.items()):
            for table in self.tables:
                first = self.first_held(slot, table)
                places = self.places(slot, first, len(text), table)
                assert all(place >= SIZE for place in places), "page 0 is nobody's"
                assert [self.memory[place] for place in places] == [
                    (table, tuple(text[: i + 1])) for i in range(first, len(text))
                ]

    def teardown(self):
        for slot in list(self.texts):
            self.end_of(slot)
        assert self.pages.num_free_pages == self.pages.num_pages, "no page is left behind"
        self.pages.check_integrity()


TestPages = Machine.TestCase
TestPages.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def made(num_pages=10, reuse=True):
    return Pages(4, CONTEXT, SIZE, num_pages, reuse)


def filled(pages, tokens):
    slot = pages.allocate(tokens, []).slot
    assert pages.extend(slot, 0, len(tokens)) == []
    return slot


def test_a_common_prefix_is_shared_by_reference_and_its_last_page_copied_when_written():
    pages, text = made(), list(range(12))
    first = filled(pages, text)
    placement = pages.allocate([*text[:8], 99, 98], [(first, text)])
    assert placement == SlotPlacement(1, 8)
    assert list(pages.pages(1)) == list(pages.pages(first))[:2]
    assert pages.extend(1, 8, 10) == [], "a full page is never copied"
    again = pages.extend(1, 6, 10)
    assert [len(copy.source) for copy in again] == [SIZE], "written in the middle of a shared page"
    assert pages.pages(1)[0] == pages.pages(first)[0]
    assert pages.pages(1)[1] != pages.pages(first)[1]


def test_pages_of_ended_sessions_go_the_longest_unused_first():
    pages = made(num_pages=6)
    old, new = (filled(pages, [n] * 8) for n in (1, 2))
    pages.free(old, [1] * 8)
    pages.free(new, [2] * 8)
    assert pages.num_free_pages == 6
    slot = filled(pages, [3] * 12)
    assert dict(pages.held()) == {new: [2] * 8}
    assert pages.extend(slot, 12, 20) == []
    assert dict(pages.held()) == {}
    assert pages.extend(slot, 20, 22) == []
    other = pages.allocate([4], []).slot
    assert pages.extend(other, 0, 1) is None, (
        "six pages hold 22 tokens of one session, and no token of another"
    )


def with_a_window(text):
    """Six pages, five of them of a slot that holds 20 tokens and sees the latest one of them; it fed two at last."""
    pages = Pages(4, CONTEXT, SIZE, 6, reuse=True, windows=(1,), chunk=CHUNK, roll_back=ROLL_BACK)
    slot = filled(pages, text)
    assert pages.extend(slot, 18, 20) == []
    return pages, slot


def test_pages_behind_a_window_serve_later_prompts_until_they_are_needed():
    text = list(range(20))
    pages, slot = with_a_window(text)
    assert NO_PAGE not in pages.pages(slot)
    assert pages.num_free_pages == 1 + 4
    again = pages.allocate([*text[:8], 99], [(slot, text)])
    assert again.num_cached == 8
    pages.free(again.slot, text[:8])
    other = pages.allocate([50], [(slot, text)]).slot
    assert pages.extend(other, 0, 20) == []
    assert list(pages.pages(slot))[:4] == [NO_PAGE] * 4
    assert pages.num_free_pages == 0
    assert dict(pages.held()) == {}, "ended sessions go after pages behind a window"


def test_a_slot_that_goes_back_keeps_what_it_sees_from_there_while_others_take_pages():
    pages, slot = with_a_window(list(range(20)))
    assert pages.roll_back(slot, 10)
    other = pages.allocate([50], []).slot
    assert pages.extend(other, 0, 12) == []
    assert list(pages.pages(slot)).count(NO_PAGE) == 2
    assert pages.roll_back(slot, 10)
    assert pages.extend(slot, 10, 11) == []
    pages.check_integrity()


def test_a_pool_that_holds_no_whole_session_is_a_mistake():
    with pytest.raises(AssertionError, match="one session"):
        made(num_pages=5)


def test_the_first_page_is_nobodys():
    pages = made()
    slot = filled(pages, [1] * CONTEXT)
    assert NO_PAGE not in pages.pages(slot)
    assert pages.num_places == 11 * SIZE
