"""Events (facts that go into the session) and actions (what is to be done now); frozen, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass

from adasd.errors import AdasdError
from adasd.results import Chunk, FinishReason
from adasd.rounds import AcceptanceRule, DraftBlock, DraftCall, RoundCompleted, StopRule, Verdict, VerifyCall

# --------------------------------------------------------------------------- events: what happened


@dataclass(frozen=True, slots=True)
class TargetAttached:
    """A target slot is open for this session and empty."""


@dataclass(frozen=True, slots=True)
class TargetLost:
    """The target's answer will never come: replica dead, silent or restarted."""


@dataclass(frozen=True, slots=True)
class TargetAnswered:
    """A verdict arrived ``elapsed_ms`` after it was asked for."""

    verdict: Verdict
    elapsed_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class TargetDeclined:
    """The target will not do the ask of ``epoch``: what that assumed did not come true, as far as it knows."""

    epoch: int


@dataclass(frozen=True, slots=True)
class DraftAttached:
    """A draft slot is open for this session and empty."""


@dataclass(frozen=True, slots=True)
class DraftLost:
    """The draft is gone; another may be attached later."""


@dataclass(frozen=True, slots=True)
class DraftLeft:
    """The draft was given back for another one, which is attached next; nothing was lost."""


@dataclass(frozen=True, slots=True)
class DraftLate:
    """The block of ``epoch`` is not worth waiting for any longer; the draft itself may still live."""

    epoch: int


@dataclass(frozen=True, slots=True)
class DraftAnswered:
    """A block arrived ``elapsed_ms`` after it was asked for."""

    drafted: DraftBlock
    elapsed_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Planned:
    """The controller's answer to AskPlan; ``draft.max_tokens == 0`` makes the round a plain one.

    While the target judges, branches of a lookahead may be prepared (adasd.session.lookahead).
    """

    draft: StopRule
    accept: AcceptanceRule
    drafts_ahead: bool = False  # the draft goes on behind the block, for a full acceptance
    drafts_for_rejection: bool = False  # and prepares for the likeliest rejection
    asks_early: bool = False  # the target takes calls that assume a verdict, and so decodes on


@dataclass(frozen=True, slots=True)
class Cancel:
    """The caller left."""


@dataclass(frozen=True, slots=True)
class Fail:
    """Nothing helps any more (retries used up, deadline passed); ``error`` goes to the caller."""

    error: AdasdError


Event = (
    TargetAttached
    | TargetLost
    | TargetAnswered
    | TargetDeclined
    | DraftAttached
    | DraftLost
    | DraftLeft
    | DraftLate
    | DraftAnswered
    | Planned
    | Cancel
    | Fail
)

# --------------------------------------------------------------------------- actions: what to do now


@dataclass(frozen=True, slots=True)
class AttachTarget:
    """Lease a target, open a slot there, answer TargetAttached (or Fail)."""


@dataclass(frozen=True, slots=True)
class AskPlan:
    """Ask the controller for the next round's rules; answer Planned."""

    remaining_tokens: int
    num_emitted: int
    num_relaxed: int


@dataclass(frozen=True, slots=True)
class AskDraft:
    """Send the call to the draft; answer DraftAnswered, DraftLate or DraftLost."""

    call: DraftCall


@dataclass(frozen=True, slots=True)
class AskVerify:
    """Send the call to the target; answer TargetAnswered or TargetLost."""

    call: VerifyCall


@dataclass(frozen=True, slots=True)
class Learn:
    """Tell the controller and the metrics about a completed round."""

    round: RoundCompleted


@dataclass(frozen=True, slots=True)
class Emit:
    """Send the chunk to the caller."""

    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Finish:
    """The session is over; give both slots back. ``error`` is set when it failed."""

    reason: FinishReason
    error: AdasdError | None = None


Action = AttachTarget | AskPlan | AskDraft | AskVerify | Learn | Emit | Finish
