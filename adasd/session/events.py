"""Events (what happened) and actions (what to do next) of a session; frozen, without behaviour."""

from __future__ import annotations

from dataclasses import dataclass

from adasd.errors import AdasdError
from adasd.results import Chunk, FinishReason
from adasd.rounds import AcceptanceRule, DraftBlock, DraftCall, RoundCompleted, StopRule, Verdict, VerifyCall

# --------------------------------------------------------------------------- events: what happened


@dataclass(frozen=True, slots=True)
class TargetAttached:
    """An empty target slot is open for this session."""


@dataclass(frozen=True, slots=True)
class TargetLost:
    """The target's reply will never come: its replica is dead, silent or restarted."""


@dataclass(frozen=True, slots=True)
class TargetAnswered:
    """A verdict arrived ``elapsed_ms`` after its call, and ``since_ms`` after the verdict before it (0: the first)."""

    verdict: Verdict
    elapsed_ms: float = 0.0
    since_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class TargetDeclined:
    """The target refuses the early call of ``epoch``: to its knowledge, the assumption did not come true."""

    epoch: int


@dataclass(frozen=True, slots=True)
class DraftAttached:
    """An empty draft slot is open for this session."""


@dataclass(frozen=True, slots=True)
class DraftLost:
    """The draft is gone; another may be attached later."""


@dataclass(frozen=True, slots=True)
class DraftLeft:
    """The draft was given back for another one, which is attached next; nothing was lost."""


@dataclass(frozen=True, slots=True)
class DraftLate:
    """The block of ``epoch`` took too long to wait for it; the draft itself may still be alive."""

    epoch: int


@dataclass(frozen=True, slots=True)
class DraftAnswered:
    """A block arrived ``elapsed_ms`` after its call, or after the newest verdict if that came later."""

    drafted: DraftBlock
    elapsed_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Planned:
    """The controller's reply to AskPlan; ``draft.max_tokens == 0`` makes the round a plain one.

    The three flags allow lookahead while the target judges (adasd.session.lookahead).
    """

    draft: StopRule
    accept: AcceptanceRule
    drafts_ahead: bool = False  # the draft continues after the block, in case of full acceptance
    drafts_for_rejection: bool = False  # the draft also prepares for the likeliest rejection
    asks_early: bool = False  # the target takes calls that assume a verdict, so it can decode ahead


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client has left."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The answer cannot be completed (retries used up, deadline passed); ``error`` goes to the caller."""

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
    """Lease a target and open a slot there; TargetAttached or Fail follows."""


@dataclass(frozen=True, slots=True)
class AskPlan:
    """Get the next round's rules from the controller; Planned follows."""

    remaining_tokens: int
    num_emitted: int
    num_relaxed: int


@dataclass(frozen=True, slots=True)
class AskDraft:
    """Send the call to the draft; DraftAnswered, DraftLate or DraftLost follows."""

    call: DraftCall


@dataclass(frozen=True, slots=True)
class AskVerify:
    """Send the call to the target; TargetAnswered, TargetDeclined, TargetLost or Fail follows."""

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
