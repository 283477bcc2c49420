"""Protocols between the parts; the code that assembles them passes real implementations or fakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from adasd.rounds import (
    CacheUse,
    CallFailed,
    DraftBlock,
    DraftCall,
    OpenCall,
    PrefixStats,
    Verdict,
    VerifyCall,
)


class Clock(Protocol):
    """Monotonic time in seconds."""

    def __call__(self) -> float: ...


class Decode(Protocol):
    """Token ids to text; pure."""

    def __call__(self, token_ids: Sequence[int]) -> str: ...


class Engine(Protocol):
    """Slots of one batched KV cache over one causal language model. Owned by one thread.

    Calls are submitted, and ``step`` returns their results, so that sessions join and leave the batch at every
    forward pass (continuous batching). Contract (tested by ``adasd.testing.contracts.check_engine``):

    * ``submit`` raises UnknownSession without a slot, StaleCache if ``keep_len`` exceeds what is cached,
      InvalidRequest if the tokens would not fit in the slot's ``max_len``.
    * at most one call per session waits: a newer draft call replaces a waiting one, which never gets a result (and
      whose feed may be cached in part); any other second call raises IllegalEvent.
    * after a draft call the cache holds ``base_len + num_drafted - 1`` tokens (the last one is not fed; with
      nothing drafted: ``base_len``); after a verify call ``base_len + num_accepted``.
    * results depend on the session's current tokens only, not on what was rolled back: penalties and grammars follow
      the text, however it was added (fed, drafted, found in a prefix cache).
    * ``close`` frees the slot on every path, even with a call waiting, and is idempotent.
    """

    @property
    def num_slots(self) -> int: ...

    @property
    def num_free_slots(self) -> int: ...

    @property
    def drafts_itself(self) -> bool:
        """Whether this model drafts with its own first layers, in the same slots as its verdicts.

        Then a draft call leaves the cache unchanged, and the tokens that it feeds may be cached already.
        """
        ...

    @property
    def max_context(self) -> int:
        """Tokens of prompt + answer that one slot can hold."""
        ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def verdict_backend(self) -> str:
        """What computes verdicts, for logs and clients: ``triton`` (kernels) or ``torch`` (its operations)."""
        ...

    def prepare(self, call: OpenCall) -> None:
        """Do the slow part of ``open`` in advance (compile a grammar); from any thread.

        Raises InvalidRequest for a grammar that does not compile. Optional.
        """
        ...

    def open(self, call: OpenCall) -> None:
        """Take a slot; raises Overloaded if none is free, InvalidRequest if ``max_len`` is too long or the
        grammar is not supported here."""
        ...

    def cached_len(self, session: str) -> int:
        """Tokens cached for the session (0 right after ``open``)."""
        ...

    def submit(self, call: DraftCall | VerifyCall) -> None: ...

    @property
    def num_pending(self) -> int:
        """Calls submitted and without a result yet."""
        ...

    @property
    def prefix_stats(self) -> PrefixStats:
        """Tokens looked up and found in the prefix cache; zeros without one."""
        ...

    @property
    def cache_use(self) -> CacheUse:
        """The KV cache now; any thread may ask."""
        ...

    def step(self) -> list[DraftBlock | Verdict | CallFailed]:
        """One forward pass over all waiting calls; returns the results of those that it completed."""
        ...

    def close(self, session: str) -> None: ...

    def check_integrity(self) -> None:
        """Raise AssertionError if slot table, lengths and cache disagree."""
        ...


class Lost(Protocol):
    """The part of a future (asyncio's or concurrent.futures') that reports a loss."""

    def add_done_callback(self, callback: Callable[[Any], object], /) -> object: ...
    def cancelled(self) -> bool: ...
    def result(self) -> str: ...


class Drafter(Protocol):
    """The source of one session's blocks: a draft replica, a look-up, or the target's own first layers.

    ``lost`` is done, with the reason, when the slot is lost without ``release``; ``release`` cancels it. Any error of a
    call other than those below also means that the slot is lost.
    """

    @property
    def lost(self) -> Lost: ...

    async def draft(self, call: DraftCall) -> DraftBlock:
        """The block after the tokens that the call keeps and feeds.

        Raises Superseded if a newer call replaced it before it had a result. At most one call runs at a time.
        """
        ...

    async def release(self) -> None:
        """Give the slot back. Idempotent, and safe to cancel."""
        ...


class Verifier(Drafter, Protocol):
    """A slot on a target replica: gives verdicts, and drafts if the engine can (Engine.drafts_itself)."""

    async def verify(self, call: VerifyCall) -> Verdict:
        """The verdict on the call's block.

        A call with an assumption about an earlier verdict may be made while that verdict is pending; it raises
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
        """Raises Overloaded or WorkerLost if no replica grants a slot in time.

        Errors of opening the slot may be raised by its first call instead.
        """
        ...

    async def attach_draft(self, call: OpenCall, name: str | None = None) -> Drafter:
        """A slot of the draft model of that name; None: of the preferred one."""
        ...
