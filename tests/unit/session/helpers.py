"""A session for tests: each token is a letter, and the end of sequence is token 0."""

from __future__ import annotations

from collections.abc import Sequence

from adasd.requests import GenerationRequest, SamplingParams
from adasd.rounds import AcceptanceRule, DraftBlock, DraftCall, StopRule, Verdict, VerifyCall
from adasd.session.calls import Step
from adasd.session.events import Event, Planned, TargetAnswered
from adasd.session.protocol import begin, step
from adasd.session.state import Session

EOS = 0


def decode(token_ids: Sequence[int]) -> str:
    return "".join(chr(token) for token in token_ids if token != EOS)


def ids(text: str) -> tuple[int, ...]:
    return tuple(ord(letter) for letter in text)


def start(prompt: str = "hello", **sampling: object) -> Step:
    params = SamplingParams(**({"max_tokens": 50} | sampling))  # type: ignore[arg-type]
    return begin(GenerationRequest("s", ids(prompt), params), frozenset({EOS}), decode)


def play(session: Session, *events: Event) -> Step:
    """Apply the events in order; the actions of the last one."""
    actions: tuple = ()
    for event in events:
        session, actions = step(session, event)
    return session, actions


def only(actions: tuple, kind: type):
    (found,) = [action for action in actions if isinstance(action, kind)]
    return found


def begun(**sampling: object) -> Session:
    return start(**sampling)[0]


def verdict(call: VerifyCall, num_accepted: int, next_token: int | str, **extra: object) -> TargetAnswered:
    token = ord(next_token) if isinstance(next_token, str) else next_token
    base_len = call.keep_len + len(call.feed)
    return TargetAnswered(
        Verdict(call.session, call.epoch, base_len, num_accepted, token, **extra), elapsed_ms=2.0
    )


def block(call: DraftCall, text: str) -> DraftBlock:
    base_len = call.keep_len + len(call.feed)
    return DraftBlock(call.session, call.epoch, base_len, ids(text), (0.5,) * len(text))


def planned(max_tokens: int, *, ahead: bool = False, early: bool = False) -> Planned:
    return Planned(StopRule(max_tokens, want_runner_ups=ahead), AcceptanceRule(), ahead, ahead, early)
