"""What one message of the Rounds stream says, apart from how it is written."""

from __future__ import annotations

from dataclasses import dataclass

from adasd.errors import AdasdError
from adasd.rounds import DraftBlock, DraftCall, OpenCall, Verdict, VerifyCall


@dataclass(frozen=True, slots=True)
class Close:
    """Give the slot back; the stream ends without an answer."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The slot is taken."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A request of the stream."""

    session: str
    incarnation: str  # the life of the replica that the sender's lease named
    seq: int  # number in the stream, echoed by the answer
    call: OpenCall | DraftCall | VerifyCall | Close


@dataclass(frozen=True, slots=True)
class ReplyFrame:
    """The answer to the frame with the same ``seq``; an error leaves the stream usable."""

    seq: int
    answer: Opened | DraftBlock | Verdict | AdasdError
