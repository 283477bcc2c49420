"""The load generator's gRPC client against its own server: answers, refusals, and leaving."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from adasd.errors import InvalidRequest, Overloaded, UnknownModel, WorkerLost
from adasd.requests import Mode, SpeculationOptions
from adasd.results import Chunk, Complete, EmittedToken, FinishReason, SpeculationReport, TokenKind, Usage
from load_tests.load.answers import Ask, Outcome, Reply
from load_tests.load.doors import GrpcClient
from services.transport.generation import generation_handler
from services.transport.options import RETRY_POLICY
from services.transport.server import start_server
from tests.leaks import nothing_runs

EFFECTIVE = SpeculationOptions(Mode.EXACT, "adasd", None, 16, 0.0)
FIGURES = (2, 2, 9, 7, (4, 3), (5, 4), ((TokenKind.EXACT, 7),), 1.5, None)
REPORT = SpeculationReport(EFFECTIVE, *FIGURES, 1.0, 2.0, 0.5)
ASK = Ask("chat", (("user", "Hello"),), max_tokens=9, mode=Mode.EXACT)


class Speaker:
    """Answers with three words, or fails."""

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.ends_early = False
        self.closed = asyncio.Event()
        self.asked = []

    def refusal(self):
        return None

    async def generate(self, request_id, call):
        self.asked.append(call)
        if self.fails is not None:
            raise self.fails
        try:
            for token, word in enumerate(("one ", "two ", "three")):
                yield Chunk(word, (EmittedToken(token, TokenKind.EXACT),))
                await asyncio.sleep(0.01)
            if not self.ends_early:
                yield Complete(FinishReason.STOP, Usage(5, 3), REPORT)
        finally:
            self.closed.set()


@asynccontextmanager
async def speaking():
    speaker = Speaker()
    server = await start_server([generation_handler(speaker)], "127.0.0.1")
    door = GrpcClient(server.address, None, asyncio.get_running_loop().time)
    try:
        yield speaker, door
    finally:
        await door.close()
        await server.stop(0)


async def answer(door, ask=ASK):
    made = Reply(ask, "grpc", 0.0, 0.0)
    await door.ask(ask, made)
    return made


async def test_an_answer_has_its_chunks_tokens_and_acceptance():
    async with speaking() as (speaker, door):
        found = await answer(door)
    assert (found.outcome, found.text, found.num_tokens) == (Outcome.DONE, "one two three", 3)
    assert (found.num_drafted, found.num_accepted) == (9, 7)
    assert len(found.chunks_s) == 3
    assert found.chunks_s == sorted(found.chunks_s)
    assert found.ended_s >= found.chunks_s[-1]
    assert (speaker.asked[0].sampling.max_tokens, speaker.asked[0].speculation.mode) == (9, Mode.EXACT)
    assert await nothing_runs()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidRequest("wrong"), Outcome.REFUSED),
        (UnknownModel("a", "b"), Outcome.REFUSED),
        (Overloaded("full"), Outcome.OVERLOADED),
        (WorkerLost("target", "gone"), Outcome.FAILED),
    ],
)
async def test_errors_become_outcomes(error, outcome):
    async with speaking() as (speaker, door):
        speaker.fails = error
        found = await answer(door)
    assert found.outcome is outcome
    assert found.error


async def test_a_client_that_leaves_is_gone_for_the_server():
    async with speaking() as (speaker, door):
        found = await answer(door, Ask("chat", (("user", "Hello"),), leave_after_chunks=1))
        await asyncio.wait_for(speaker.closed.wait(), 20.0)
    assert (found.outcome, len(found.chunks_s)) == (Outcome.LEFT, 1)


async def test_a_stream_that_just_ends_has_failed():
    async with speaking() as (speaker, door):
        speaker.ends_early = True
        found = await answer(door)
    assert found.outcome is Outcome.FAILED
    assert "without its last message" in found.error


async def test_nobody_there_is_a_failure_and_no_exception(monkeypatch):
    monkeypatch.setitem(RETRY_POLICY, "maxAttempts", 2)
    door = GrpcClient("127.0.0.1:9", None, asyncio.get_running_loop().time)
    found = await answer(door)
    assert found.outcome is Outcome.FAILED
    await door.close()


async def test_raw_bytes_travel_unchanged_and_are_refused():
    async with speaking() as (_, door):
        found = await answer(door, Ask("malformed", raw=b"{"))
    assert found.outcome is Outcome.REFUSED
    assert "1 bytes are no GenerateRequest" in found.error
