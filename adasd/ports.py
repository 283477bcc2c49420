"""Protocols between the parts; whoever builds the graph hands in the real thing or a fake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from adasd.rounds import CallFailed, DraftBlock, DraftCall, OpenCall, PrefixStats, Verdict, VerifyCall


class Clock(Protocol):
    """Monotonic time in seconds."""

    def __call__(self) -> float: ...


class Decode(Protocol):
    """Token ids to text; pure."""

    def __call__(self, token_ids: Sequence[int]) -> str: ...


class Engine(Protocol):
    """Slots of one batched KV cache over one causal language model. Owned by one thread.

    Calls are submitted and answered by ``step``, so that sessions join and leave the running batch at every
    forward pass. Contract (held by ``adasd.testing.contracts.check_engine``):

    * ``submit`` raises UnknownSession without a slot, StaleCache if ``keep_len`` exceeds what is cached,
      InvalidRequest if the tokens would not fit in the slot's ``max_len``.
    * at most one call per session waits: a newer draft call takes the place of a waiting one, which is never
      answered (and whose feed may be cached in part); any other second call raises IllegalEvent.
    * after a draft call the cache holds ``base_len + num_drafted - 1`` tokens (the last one is not fed; with
      nothing drafted: ``base_len``); after a verify call ``base_len + num_accepted``.
    * answers depend on the tokens that a session holds and on nothing that was rolled back: penalties and grammars
      follow the text, wherever it came from (fed, drafted, found in a prefix cache).
    * ``close`` frees the slot on every path, also with a call waiting, and is idempotent.
    """

    @property
    def num_slots(self) -> int: ...

    @property
    def num_free_slots(self) -> int: ...

    @property
    def drafts_itself(self) -> bool:
        """Whether draft calls are answered by this model's own first layers, on the slots of its verdicts.

        Then a draft call leaves the cache as it was, and what it feeds may be cached already.
        """
        ...

    @property
    def max_context(self) -> int:
        """Tokens of prompt + answer that one slot can hold."""
        ...

    @property
    def vocab_size(self) -> int: ...

    def prepare(self, call: OpenCall) -> None:
        """Do beforehand what would make ``open`` slow (a grammar to be compiled); from any thread.

        Raises InvalidRequest for a grammar that does not compile. Never needed.
        """
        ...

    def open(self, call: OpenCall) -> None:
        """Take a slot; raises Overloaded if none is free, InvalidRequest if ``max_len`` is too long or the
        grammar cannot be followed here."""
        ...

    def cached_len(self, session: str) -> int:
        """Tokens cached for the session (0 right after ``open``)."""
        ...

    def submit(self, call: DraftCall | VerifyCall) -> None: ...

    @property
    def num_pending(self) -> int:
        """Calls submitted and not answered yet."""
        ...

    @property
    def prefix_stats(self) -> PrefixStats:
        """What the prefix cache was asked for and what it held; zeros without one."""
        ...

    def step(self) -> list[DraftBlock | Verdict | CallFailed]:
        """One forward pass over all waiting calls; answers those that it completed."""
        ...

    def close(self, session: str) -> None: ...

    def check_integrity(self) -> None:
        """Raise AssertionError if slot table, lengths and cache disagree."""
        ...


class Lost(Protocol):
    """The part of a future (of asyncio or of concurrent.futures) that tells of a loss."""

    def add_done_callback(self, callback: Callable[[Any], object], /) -> object: ...
    def cancelled(self) -> bool: ...
    def result(self) -> str: ...


class Drafter(Protocol):
    """Where the blocks of one session come from: a draft replica, a look-up, or the target's own first layers.

    ``lost`` is done when the slot was lost without having been given back, and says why; ``release`` cancels it.
    Any error of a call but those named below means that the slot is lost, too.
    """

    @property
    def lost(self) -> Lost: ...

    async def draft(self, call: DraftCall) -> DraftBlock:
        """The block behind what the call keeps and feeds.

        Raises Superseded if a newer call took its place before it was answered. At most one call is worked on.
        """
        ...

    async def release(self) -> None:
        """Give the slot back. Idempotent, and safe to cancel."""
        ...


class Verifier(Drafter, Protocol):
    """A target replica: gives the verdicts, and drafts for itself where its first layers may (Engine.drafts_itself)."""

    async def verify(self, call: VerifyCall) -> Verdict:
        """The verdict on the call's block.

        A call that assumes something about the verdict before it may be made while that is under way; it raises
        Superseded if the assumption did not come true. Raises InvalidRequest or Overloaded if the request, or the
        opening of its slot, was refused.
        """
        ...


class Placement(Protocol):
    """Attaches one session to workers with a free slot."""

    @property
    def draft_names(self) -> tuple[str, ...]:
        """Draft models, the preferred one first; empty: none."""
        ...

    async def attach_target(self, call: OpenCall) -> Verifier:
        """Raises Overloaded or WorkerLost when no replica grants a slot in time.

        What is wrong with the slot itself may be raised by its first call.
        """
        ...

    async def attach_draft(self, call: OpenCall, name: str | None = None) -> Drafter:
        """A slot of the draft model of that name; without one, of the preferred one."""
        ...
