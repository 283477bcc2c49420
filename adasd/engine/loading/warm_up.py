"""Runs the shapes that requests will use, so that no request pays for one-time work."""

from __future__ import annotations

from adasd.errors import AdasdError
from adasd.ports import Engine
from adasd.rounds import CallFailed, DraftCall, OpenCall, SamplingTransform, StopRule, VerifyCall

_GREEDY = SamplingTransform(temperature=0.0)


def warm_up(engine: Engine, prefill_chunk: int, block_len: int = 8) -> None:
    """Prefill, decode, verify and draft: for one session, then for all slots at once.

    All slots must be free, and are free again afterwards. Raises the error of a pass that fails (for example
    DeviceFailure when the device's memory does not hold a full batch).
    """
    for num_sessions in dict.fromkeys((1, engine.num_slots)):
        sessions = [f"warm-up {i}" for i in range(num_sessions)]
        try:
            for session in sessions:
                engine.open(OpenCall(session, _GREEDY, engine.max_context))
            _exercise(engine, sessions, prefill_chunk, block_len)
        finally:
            for session in sessions:
                engine.close(session)


def _exercise(engine: Engine, sessions: list[str], prefill_chunk: int, block_len: int) -> None:
    room = engine.max_context
    prompt = (0,) * min(prefill_chunk, max(1, room - 2 * block_len))
    block = (0,) * min(block_len, max(0, room - len(prompt) - 1))
    base = min(len(prompt), room - 1)
    engine.submit(VerifyCall(sessions[0], 0, 0, prompt))
    _answer_all(engine)
    for session in sessions:
        engine.submit(VerifyCall(session, 1, min(base, engine.cached_len(session)), (0,)))
    _answer_all(engine)
    for session in sessions:
        keep = min(base, engine.cached_len(session))
        engine.submit(VerifyCall(session, 2, keep, (0,), block))
    _answer_all(engine)
    for session in sessions:
        keep = min(base, engine.cached_len(session))
        engine.submit(DraftCall(session, 3, keep, (0,), StopRule(min(2, room - keep))))
    _answer_all(engine)


def _answer_all(engine: Engine) -> None:
    while engine.num_pending:
        for answer in engine.step():
            if isinstance(answer, CallFailed):
                error = answer.error
                raise error if isinstance(error, AdasdError) else RuntimeError(str(error))
