"""The frames of the Rounds stream, independent of their encoding."""

from __future__ import annotations

from dataclasses import dataclass

from adasd.errors import AdasdError
from adasd.rounds import DraftBlock, DraftCall, OpenCall, Verdict, VerifyCall


@dataclass(frozen=True, slots=True)
class Close:
    """Give the slot back; the stream ends without a reply."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The session has its slot."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A request of the stream."""

    session: str
    incarnation: str  # the worker incarnation that the sender's lease is for
    seq: int  # number in the stream, echoed by the reply
    call: OpenCall | DraftCall | VerifyCall | Close


@dataclass(frozen=True, slots=True)
class ReplyFrame:
    """The reply to the frame with the same ``seq``; an error leaves the stream usable."""

    seq: int
    answer: Opened | DraftBlock | Verdict | AdasdError
