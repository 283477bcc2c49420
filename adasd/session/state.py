"""The state of a session, as immutable values.

Values that change every round are named tuples: copying one with a change takes a quarter of a dataclass's time.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple

from adasd.ports import Decode
from adasd.requests import GenerationRequest
from adasd.results import FinishReason, TokenKind
from adasd.rounds import AcceptanceRule, DraftBlock, StopRule
from adasd.session.events import Planned
from adasd.text.stop_strings import TextState

PLAIN = Planned(StopRule(0), AcceptanceRule())


class Phase(StrEnum):
    """What the session waits for; ``protocol.TRANSITIONS`` says which events each phase allows."""

    ATTACHING = "attaching"  # a target slot (first or replacement)
    PREFILLING = "prefilling"  # the verdict on an empty block after the prompt
    PLANNING = "planning"  # the controller
    DRAFTING = "drafting"  # a block
    VERIFYING = "verifying"  # a verdict
    FINISHED = "finished"


class DraftSide(NamedTuple):
    """What the session knows about its draft.

    The draft's cache is known to hold ``cached_len`` leading committed tokens, then ``tail``, which may not be
    committed. ``busy`` is the epoch of the one call that it works on, which feeds ``feeding`` after both; a draft that
    is late stays busy until its reply comes. ``only_fed``: its newest call asked for no block; ``fed_len``: committed
    tokens when the reply to it came.
    """

    attached: bool = False
    busy: int | None = None
    cached_len: int = 0
    tail: tuple[int, ...] = ()
    feeding: tuple[int, ...] = ()
    only_fed: bool = False
    fed_len: int = 0

    @property
    def ready(self) -> bool:
        return self.attached and self.busy is None

    def asked(
        self, epoch: int, committed: tuple[int, ...], behind: tuple[int, ...], *, only_feeds: bool = False
    ) -> DraftSide:
        """After a call to draft after ``committed + behind``: it keeps what is cached of them and is fed the rest."""
        wanted = committed[self.cached_len :] + behind
        num_kept = common_len(self.tail, wanted[:-1])  # at least one token must be fed to get logits
        cached_len = self.cached_len + min(num_kept, len(committed) - self.cached_len)
        kept = wanted[cached_len - self.cached_len : num_kept]
        return DraftSide(self.attached, epoch, cached_len, kept, wanted[num_kept:], only_feeds)

    def answered(self, drafted: DraftBlock, num_committed: int) -> DraftSide:
        """After its block arrived; the last token of a block is not fed."""
        tail = self.tail + self.feeding + drafted.tokens[:-1]
        return self._replace(busy=None, tail=tail, feeding=(), fed_len=num_committed)

    def given_up(self) -> DraftSide:
        """After the session stopped waiting for its call; the next call supersedes it."""
        return self._replace(busy=None, feeding=())

    def num_missing(self, committed: tuple[int, ...]) -> int:
        """Committed tokens that its cache lacks."""
        return len(committed) - self.cached_len - common_len(self.tail, committed[self.cached_len :])

    @property
    def keep_len(self) -> int:
        """Cached tokens that its current call keeps."""
        return self.cached_len + len(self.tail)


def common_len(some: tuple[int, ...], others: tuple[int, ...]) -> int:
    """Length of the common prefix."""
    shorter = min(len(some), len(others))
    if some[:shorter] == others[:shorter]:
        return shorter
    return next(i for i in range(shorter) if some[i] != others[i])


class Branch(NamedTuple):
    """One assumption about the pending verdict, and the work done on it."""

    base_len: int  # position of the target's own token
    num_accepted: int | None = None  # tokens of the block before it; None: all of the block
    token: int | None = None  # the target's own token; None: not known yet, or any
    rule: StopRule | None = None  # of the block after that token; None: nothing is drafted
    draft_epoch: int | None = None  # of the draft call
    is_drafted: bool = False  # the reply to that call arrived
    block: DraftBlock | None = None  # the next block; None: not drafted yet, or empty
    elapsed_ms: float = 0.0  # as in DraftAnswered
    verify_epoch: int | None = None  # of the early verify call, if there is one

    @property
    def on_its_way(self) -> bool:
        """Whether the draft still works on it."""
        return self.draft_epoch is not None and not self.is_drafted

    def matches(self, base_len: int, token: int) -> bool:
        """Whether the target's own token ``token`` at ``base_len`` fits the assumption, as far as that is known."""
        if base_len != self.base_len:
            return False
        return token == self.token or (self.token is None and not self.is_drafted)


Branches = tuple[Branch, ...]


KINDS = tuple(TokenKind)


class Counts(NamedTuple):
    """What speculation did for this answer. Counts in tokens, times in milliseconds.

    Tokens after the end of the answer are not counted, and prefill is not a round.
    """

    num_rounds: int = 0
    cached_tokens: int = 0
    accepted_per_round: tuple[int, ...] = ()  # rounds with a block only
    drafted_per_round: tuple[int, ...] = ()
    by_kind: tuple[int, ...] = (0,) * len(KINDS)  # emitted tokens by provenance, in the order of TokenKind
    draft_ms: float = 0.0
    verify_ms: float = 0.0
    network_ms: float = 0.0
    draft_lost: int = 0
    target_lost: int = 0
    num_ahead: int = 0  # branches drafted
    num_ahead_used: int = 0  # of these, the ones that came true

    def of_kind(self, kind: TokenKind) -> int:
        """Emitted tokens of one provenance."""
        return self.by_kind[KINDS.index(kind)]


class Session(NamedTuple):
    """One answer in the making."""

    request: GenerationRequest
    eos_ids: frozenset[int]
    decode: Decode
    committed: tuple[int, ...]  # prompt + answer; the newest token is never cached yet
    patience_s: float = math.inf  # of its draft calls
    phase: Phase = Phase.ATTACHING
    epoch: int = 0  # of the reply that the current round waits for
    last_epoch: int = 0  # of the newest call
    target_cached: int = 0  # leading committed tokens in the target's cache
    draft: DraftSide = DraftSide()
    plan: Planned = PLAIN  # of the current round
    block: DraftBlock | None = None  # being verified
    block_ms: float = 0.0  # wall time that the round waited for ``block``
    block_rule: StopRule | None = None  # the rule that ``block`` was drafted by
    asked_early: bool = False  # whether the call of the current round left before the verdict before it came
    branches: Branches = ()  # the lookahead while the target judges; afterwards the branch that came true
    text: TextState = TextState()
    counts: Counts = Counts()
    finish_reason: FinishReason | None = None
    stop_match: str | int | None = None

    @property
    def num_emitted(self) -> int:
        return len(self.committed) - len(self.request.prompt)

    @property
    def remaining_tokens(self) -> int:
        return self.request.sampling.max_tokens - self.num_emitted
