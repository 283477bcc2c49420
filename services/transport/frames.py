"""What a link carries, independent of its encoding: frames of asks in one direction, frames of replies in the other.

A session has a number in its link, and every ask has one; a reply carries the number of its ask. What every round makes
is a named tuple, which is made in half of a frozen dataclass's time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from adasd.errors import AdasdError
from adasd.rounds import DraftBlock, DraftCall, OpenCall, Verdict, VerifyCall


@dataclass(frozen=True, slots=True)
class OpenAsk:
    """Take a slot for a session. ``call.session`` is the id that its lease was granted to."""

    number: int
    session: int
    call: OpenCall
    headers: Mapping[str, str] = field(default_factory=dict)  # trace context of the session's calls


class CallAsk(NamedTuple):
    """A draft or verify call of an open session."""

    number: int
    session: int
    call: DraftCall | VerifyCall


@dataclass(frozen=True, slots=True)
class AskFrame:
    """The asks of one turn of the orchestrator's event loop, to be taken in this order."""

    incarnation: str  # the worker incarnation that the sender's leases are for
    opens: tuple[OpenAsk, ...] = ()
    calls: tuple[CallAsk, ...] = ()  # by number
    closes: tuple[int, ...] = ()  # sessions


@dataclass(frozen=True, slots=True)
class Opened:
    """The session has its slot."""


class Reply(NamedTuple):
    """The reply to the ask with this number; after an error the session goes on."""

    number: int
    answer: Opened | DraftBlock | Verdict | AdasdError


@dataclass(frozen=True, slots=True)
class Ended:
    """A session is over: its slot is free, and its number means nothing any more."""

    session: int
    error: AdasdError | None = None  # None: the orchestrator closed it


@dataclass(frozen=True, slots=True)
class ReplyFrame:
    """Replies, and sessions that ended after them."""

    replies: tuple[Reply, ...] = ()
    ended: tuple[Ended, ...] = ()
