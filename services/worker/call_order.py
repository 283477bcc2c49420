"""The order of each session's calls: one in the engine, later ones after it, outdated ones refused.

A pure data structure, used by the engine's thread. It knows neither the engine nor the callers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Protocol

from adasd.errors import AdasdError
from adasd.rounds import Assumption, DraftBlock, DraftCall, Verdict, VerifyCall

Answer = DraftBlock | Verdict | None | AdasdError
"""Of a request to the engine's thread; None: done."""


class Caller(Protocol):
    """Who made one request. It gets one answer, on the event loop."""

    def has_left(self) -> bool:
        """Whether it no longer waits; any thread may ask."""
        ...

    def answer(self, answer: Answer) -> None: ...


@dataclass(frozen=True, slots=True)
class QueuedCall:
    """A draft or verify call on its way through the worker."""

    call: DraftCall | VerifyCall
    caller: Caller
    arrived_s: float


@dataclass(frozen=True, slots=True)
class _VerdictMemo:
    """The parts of a session's latest verdict that its next call may have assumed."""

    epoch: int
    next_token: int
    num_accepted: int
    is_full: bool  # the whole block was accepted

    def confirms(self, assumption: Assumption) -> bool:
        if assumption.epoch != self.epoch or assumption.next_token not in (None, self.next_token):
            return False
        if assumption.num_accepted is None:
            return self.is_full
        return assumption.num_accepted == self.num_accepted


@dataclass(slots=True)
class _SessionCalls:
    newest_epoch: int = -1
    running: QueuedCall | None = None  # in the engine
    waiting: deque[QueuedCall] = field(default_factory=deque)  # after that one, oldest first
    verdict: _VerdictMemo | None = None


class CallOrder:
    """Calls of all open sessions. A session that is not open has no order: the engine refuses its calls."""

    def __init__(self) -> None:
        self._sessions: dict[str, _SessionCalls] = {}
        self.num_running = 0  # sessions with a call in the engine

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, session: str) -> None:
        self._sessions[session] = _SessionCalls()

    def close(self, session: str) -> list[QueuedCall]:
        """Forget the session; returns its calls that got no reply."""
        calls = self._sessions.pop(session, None)
        if calls is None:
            return []
        self.num_running -= calls.running is not None
        return [*([calls.running] if calls.running else []), *calls.waiting]

    def is_outdated(self, call: DraftCall | VerifyCall) -> bool:
        """Whether a call of this or a later epoch arrived before. Records the call's epoch."""
        calls = self._sessions.get(call.session)
        if calls is None:
            return False
        newest, calls.newest_epoch = calls.newest_epoch, max(calls.newest_epoch, call.epoch)
        return call.epoch <= newest

    def must_wait(self, call: DraftCall | VerifyCall) -> bool:
        """Whether the engine cannot take the call yet. A draft call replaces a draft call in the engine."""
        calls = self._sessions.get(call.session)
        if calls is None:
            return False
        running = calls.running
        replaces = running and isinstance(call, DraftCall) and isinstance(running.call, DraftCall)
        return bool(calls.waiting) or (running is not None and not replaces)

    def wait(self, queued: QueuedCall) -> None:
        self._sessions[queued.call.session].waiting.append(queued)

    def next_ready(self, session: str) -> QueuedCall | None:
        """Take the session's oldest waiting call, if none of its calls is in the engine."""
        calls = self._sessions.get(session)
        return calls.waiting.popleft() if calls and calls.waiting and not calls.running else None

    def resolved(self, call: VerifyCall) -> VerifyCall | None:
        """The call as the engine computes it; None if it assumes a verdict that did not come true.

        A call that left the next token open gets the verdict's token. The verdict is forgotten, as it does not apply
        to later calls.
        """
        calls = self._sessions.get(call.session)
        memo = calls.verdict if calls else None
        if call.assuming is not None:
            if memo is None or not memo.confirms(call.assuming):
                return None
            if call.assuming.next_token is None:
                call = replace(call, feed=(memo.next_token,))
        if calls:
            calls.verdict = None
        return call

    def started(self, queued: QueuedCall) -> QueuedCall | None:
        """Record that the engine took the call; returns the one that it replaced there, which gets no result."""
        calls = self._sessions[queued.call.session]
        replaced, calls.running = calls.running, queued
        self.num_running += replaced is None
        return replaced

    def finished(self, session: str, epoch: int) -> QueuedCall | None:
        """Take the call that a reply of this epoch belongs to; None if the session was closed."""
        calls = self._sessions.get(session)
        if calls is None or calls.running is None or calls.running.call.epoch != epoch:
            return None
        queued, calls.running = calls.running, None
        self.num_running -= 1
        return queued

    def remember(self, call: VerifyCall, verdict: Verdict) -> None:
        """Keep the verdict for calls that assume one. Nothing happens if the session was closed."""
        if (calls := self._sessions.get(call.session)) is not None:
            is_full = verdict.num_accepted == len(call.block)
            calls.verdict = _VerdictMemo(call.epoch, verdict.next_token, verdict.num_accepted, is_full)
