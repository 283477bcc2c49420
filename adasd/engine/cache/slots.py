"""Which session owns a slot, and which tokens the slot holds. Pure bookkeeping, no tensors.

Only the listed tokens are valid, so a roll-back only shortens the list. A session gets its slot of the cache when it
is first fed: only then is it known which slot already holds a prefix of its prompt. A session that is preempted loses
its slot of the cache; its tokens are kept, and its next call feeds them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adasd.engine.cache.layout import CacheLayout, SlotPlacement
from adasd.errors import InvalidRequest, Overloaded, StaleCache, UnknownSession
from adasd.rounds import PrefixStats
from adasd.specdec.verification_budget import SessionPrices

if TYPE_CHECKING:  # it imports torch; slots are used without torch
    from adasd.engine.sampling.logits_state import LogitsState

NO_SLOT = -1
"""Index of a slot that has no place in the cache yet."""


@dataclass(slots=True)
class Slot:
    """A session's share of the cache. Invariant: ``cached_len <= max_len <= max_context``."""

    session: str
    max_len: int  # most tokens that the session may hold
    index: int = NO_SLOT  # of the cache
    tokens: list[int] = field(default_factory=list)  # whose keys and values are valid, from position 0
    logits_state: LogitsState | None = None  # effect of those tokens on the next logits; None: no effect
    logprobs: int | None = None  # as in OpenCall
    prompt_logprobs: int | None = None
    prices: SessionPrices = field(
        default_factory=SessionPrices
    )  # that a verification budget cuts its blocks by
    number: int = 0  # sessions are numbered in the order of their opening
    evicted: list[int] = field(
        default_factory=list
    )  # valid tokens, none of them cached, until a call feeds them

    shallow_from: int | None = None  # tokens from here on have passed the first layers only; None: none has

    @property
    def whole_tokens(self) -> list[int]:
        """The cached tokens whose keys and values are there in all layers."""
        return self.tokens if self.shallow_from is None else self.tokens[: self.shallow_from]

    @property
    def is_placed(self) -> bool:
        """Whether it has a slot of the cache."""
        return self.index != NO_SLOT

    @property
    def cached_len(self) -> int:
        return len(self.tokens)

    @property
    def valid_len(self) -> int:
        """Tokens that a call may keep: cached, or evicted."""
        return len(self.evicted or self.tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Record that these tokens are cached, too."""
        self.tokens += tokens
        if self.logits_state is not None:
            self.logits_state.extend(tokens)

    def cut(self, length: int) -> None:
        """Roll back to ``length`` tokens, if there are more."""
        if self.logits_state is not None:
            self.logits_state.cut(self.tokens[length:])
        del self.tokens[length:]


class SlotTable:
    """Slots by session. The layout decides whether the contents of closed sessions' slots are reused."""

    def __init__(self, layout: CacheLayout) -> None:
        self.layout = layout
        self.prefix_stats = PrefixStats()
        self._by_session: dict[str, Slot] = {}
        self._num_opened = 0

    @property
    def num_free(self) -> int:
        return self.layout.num_slots - len(self._by_session)

    def __contains__(self, session: str) -> bool:
        return session in self._by_session

    def open(self, session: str, max_len: int) -> Slot:
        """Take a slot; raises InvalidRequest (bad length, or already open) or Overloaded."""
        if not 1 <= max_len <= self.layout.max_context:
            raise InvalidRequest(
                f"a slot holds 1 to {self.layout.max_context} tokens, {max_len} were asked for; "
                "shorten the prompt or lower max_tokens",
                "max_tokens",
            )
        if session in self._by_session:
            raise InvalidRequest(f"session {session} is open already; close it first")
        if not self.num_free:
            raise Overloaded(f"all {self.layout.num_slots} slots of the worker are in use")
        self._num_opened += 1
        slot = Slot(session, max_len, number=self._num_opened)
        self._by_session[session] = slot
        return slot

    def get(self, session: str) -> Slot:
        """Raises UnknownSession."""
        try:
            return self._by_session[session]
        except KeyError:
            raise UnknownSession(session) from None

    def keep(self, session: str, keep_len: int) -> Slot:
        """Roll back to ``keep_len`` tokens; raises StaleCache if fewer are valid."""
        slot = self.get(session)
        if not 0 <= keep_len <= slot.valid_len:
            raise StaleCache(session, keep_len, slot.valid_len)
        slot.cut(keep_len)
        del slot.evicted[keep_len:]
        self.settle(slot)
        return slot

    def settle(self, slot: Slot) -> None:
        """After a roll-back: preempt the slot if what its next token sees lay behind the window and was given back."""
        if slot.is_placed and not self.layout.roll_back(slot.index, slot.cached_len):
            self.preempt(slot, list(slot.tokens))

    def newest_placed(self) -> Iterator[Slot]:
        """Sessions with a slot of the cache, the newest first."""
        return (slot for slot in reversed(self._by_session.values()) if slot.is_placed)

    def preempt(self, slot: Slot, valid: list[int]) -> None:
        """Give back the session's slot of the cache, if it has one; its next call feeds the ``valid`` tokens again."""
        if slot.is_placed:
            self.layout.free(slot.index, list(slot.whole_tokens))
            slot.cut(0)
        slot.index, slot.evicted = NO_SLOT, valid

    def place(self, slot: Slot, prompt: Sequence[int]) -> SlotPlacement:
        """Give a session that begins with ``prompt`` a slot of the cache.

        The prefix that the placement finds counts as cached at once; the caller copies it if another slot holds it.
        """
        assert not slot.is_placed, slot
        in_use = [(other.index, other.whole_tokens) for other in self._by_session.values() if other.is_placed]
        placement = self.layout.allocate(prompt, in_use)
        slot.index = placement.slot
        slot.extend(prompt[: placement.num_cached])
        if self.layout.reuse:
            before = self.prefix_stats
            self.prefix_stats = PrefixStats(
                before.num_queried + len(prompt), before.num_hits + placement.num_cached
            )
        return placement

    def close(self, session: str) -> None:
        """Free the slot; idempotent."""
        slot = self._by_session.pop(session, None)
        if slot is not None and slot.is_placed:
            self.layout.free(slot.index, slot.tokens)

    def check_integrity(self) -> None:
        """Raise AssertionError if a slot is lost or owned twice, or a length is out of bounds."""
        slots = self._by_session.values()
        owned = [slot.index for slot in slots if slot.is_placed]
        assert sorted([*owned, *self.layout]) == list(range(self.layout.num_slots)), (owned, [*self.layout])
        assert len(slots) <= self.layout.num_slots, (len(slots), self.layout.num_slots)
        for session, slot in self._by_session.items():
            assert slot.session == session, (slot, session)
            assert max(slot.cached_len, slot.valid_len) <= slot.max_len <= self.layout.max_context, slot
            assert not (slot.tokens and slot.evicted), slot
            assert slot.is_placed or not slot.tokens, slot
            assert slot.logits_state is None or len(slot.logits_state) == slot.cached_len, slot
        self.layout.check_integrity()
        for index, tokens in self.layout.held():
            assert self.layout.reuse, f"slot {index} holds something although the prefix cache is off"
            assert 0 < len(tokens) <= self.layout.max_context, (index, len(tokens))
