"""Where the keys and values of a session lie. Pure bookkeeping, no tensors.

A *place* is an index into the tensors of ``KVCache``. Which places a slot's positions take is known to the layout
alone: contiguous slots (``PrefixCache``) take one run each, pages would take several.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Held = tuple[int, list[int]]
"""A slot and the tokens whose keys and values it holds, from position 0."""


@dataclass(frozen=True, slots=True)
class SlotPlacement:
    """The slot of a new session, and how many of its first tokens need not be computed."""

    slot: int
    num_cached: int = 0
    copy_from: int | None = None  # the slot that holds them; None: this one does


class CacheLayout(Protocol):
    """Allocates slots and knows the places of their positions."""

    num_slots: int
    max_context: int  # positions per slot at most
    num_places: int
    reuse: bool  # what a freed slot holds may be found again

    def allocate(self, prompt: Sequence[int], in_use: Iterable[Held]) -> SlotPlacement:
        """A slot for a session that begins with ``prompt``; at least one slot must be free.

        The prompt's last token is never found, as its logits are wanted.
        """
        ...

    def extend(self, slot: int, length: int) -> None:
        """Make room for positions ``[0, length)``; raises Overloaded if there is none."""
        ...

    def free(self, slot: int, tokens: list[int]) -> None:
        """The slot has no owner any more and holds ``tokens``."""
        ...

    def runs(self, slot: int, start: int, end: int) -> Sequence[range]:
        """The places of positions ``[start, end)``, in order."""
        ...

    def place(self, slot: Any, position: Any) -> Any:
        """The place of one position, or those of tensors of slots and positions."""
        ...

    def held(self) -> Iterable[Held]:
        """Free slots that hold something."""
        ...

    def __iter__(self) -> Iterator[int]:
        """Free slots."""
        ...
