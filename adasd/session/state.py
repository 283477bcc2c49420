"""What a session knows: values that are replaced and never changed.

What changes with every round is a named tuple, of which a changed copy takes a quarter of a dataclass' time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from adasd.ports import Decode
from adasd.requests import SamplingParams
from adasd.results import FinishReason
from adasd.rounds import AcceptRule, DraftBlock, StopRule
from adasd.session.events import Planned
from adasd.session.lookahead import Ahead
from adasd.session.tally import Tally
from adasd.text.stop_strings import TextState

PLAIN = Planned(StopRule(0), AcceptRule())


class Phase(StrEnum):
    """Where the session stands; ``machine.step`` documents the transitions."""

    NEW = "new"
    ATTACHING = "attaching"  # waits for a target slot (first or replacement)
    PREFILLING = "prefilling"  # waits for the verdict on an empty block after the prompt
    PLANNING = "planning"  # waits for the controller
    DRAFTING = "drafting"  # waits for a block
    VERIFYING = "verifying"  # waits for a verdict
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Terms:
    """What never changes during a session."""

    session: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    eos_ids: frozenset[int]
    decode: Decode  # token ids to text, pure


class DraftSide(NamedTuple):
    """The session's idea of its draft.

    ``cached_len`` counts leading committed tokens that the draft surely has in its cache; behind them it surely has
    ``tail``, whether that was committed or not. ``busy`` is the epoch of the one call that it works on, which feeds
    ``feeding`` behind both; a draft that is late stays busy until its answer comes.
    """

    attached: bool = False
    busy: int | None = None
    cached_len: int = 0
    tail: tuple[int, ...] = ()
    feeding: tuple[int, ...] = ()

    @property
    def ready(self) -> bool:
        return self.attached and self.busy is None

    def asked(self, epoch: int, committed: tuple[int, ...], behind: tuple[int, ...]) -> DraftSide:
        """It is to draft behind ``committed`` and ``behind``: keeps what it has of them, and is fed the rest."""
        wanted = committed[self.cached_len :] + behind
        num_kept = common_len(self.tail, wanted[:-1])  # without a token it has nothing to go on from
        cached_len = self.cached_len + min(num_kept, len(committed) - self.cached_len)
        kept = wanted[cached_len - self.cached_len : num_kept]
        return DraftSide(self.attached, epoch, cached_len, kept, wanted[num_kept:])

    def answered(self, drafted: DraftBlock) -> DraftSide:
        """Its block came; the last token of a block is not fed."""
        tail = self.tail + self.feeding + drafted.tokens[:-1]
        return self._replace(busy=None, tail=tail, feeding=())

    def given_up(self) -> DraftSide:
        """Nobody waits for its call any more: the next one takes its place."""
        return self._replace(busy=None, feeding=())

    @property
    def keep_len(self) -> int:
        """Tokens that the call it works on keeps."""
        return self.cached_len + len(self.tail)


def common_len(some: tuple[int, ...], others: tuple[int, ...]) -> int:
    """How many leading tokens are the same."""
    shorter = min(len(some), len(others))
    if some[:shorter] == others[:shorter]:
        return shorter
    return next(i for i in range(shorter) if some[i] != others[i])


class Session(NamedTuple):
    """One answer in the making."""

    terms: Terms
    phase: Phase = Phase.NEW
    epoch: int = 0  # of the answer that the round under way waits for
    last_epoch: int = 0  # of the newest ask
    committed: tuple[int, ...] = ()  # prompt + answer; the newest token is never cached yet
    target_cached: int = 0  # leading committed tokens in the target's cache
    draft: DraftSide = DraftSide()
    plan: Planned = PLAIN  # of the round under way
    block: DraftBlock | None = None  # under judgement
    block_ms: float = 0.0  # wall time that the round waited for its block
    block_rule: StopRule | None = None  # that it was drafted by
    ahead: Ahead | None = None  # drafted, or being drafted, behind the block
    instead: Ahead | None = None  # for a rejection of the block where the draft was most in doubt
    going_on: int | None = None  # epoch in which the target decodes on behind its next verdict
    text: TextState = TextState()
    tally: Tally = Tally()
    finish_reason: FinishReason | None = None
    stop_match: str | int | None = None

    @property
    def num_emitted(self) -> int:
        return len(self.committed) - len(self.terms.prompt)

    @property
    def remaining_tokens(self) -> int:
        return self.terms.sampling.max_tokens - self.num_emitted
