"""The worker's gRPC service without a network: who may call it, and every way a stream ends frees its slot."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from adasd.errors import AdasdError, InvalidRequest, StaleIncarnation, Superseded, UnknownSession
from adasd.rounds import DraftBlock, DraftCall, OpenCall, SamplingTransform, StopRule, Verdict, VerifyCall
from load_tests.latency.counting_engine import CountingEngine
from services.transport.envelope import Close, Frame, Opened, ReplyFrame
from services.worker.host import EngineHost
from services.worker.leases import LeaseTable
from services.worker.service import WorkerService


class MemoryStream:
    """Both ends of a stream; the client's are ``send``, ``receive`` and ``finish``."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[Frame | None] = asyncio.Queue()
        self.replies: asyncio.Queue[ReplyFrame] = asyncio.Queue()
        self.num_sent = 0

    async def read(self) -> Frame | None:
        return await self.requests.get()

    async def write(self, reply: ReplyFrame) -> None:
        await self.replies.put(reply)

    def send(self, call, session: str = "a", incarnation: str = "now") -> None:
        self.num_sent += 1
        self.requests.put_nowait(Frame(session, incarnation, self.num_sent, call))

    async def receive(self):
        reply = await asyncio.wait_for(self.replies.get(), 5)
        assert reply.seq == self.num_sent
        return reply.answer

    def finish(self) -> None:
        self.requests.put_nowait(None)


class Replica:
    def __init__(self, host: EngineHost) -> None:
        self.host, self.leases = host, LeaseTable(4, 60.0, lambda: 0.0)
        self.service = WorkerService(host, self.leases, "now")
        self.tasks: list[asyncio.Task[None]] = []

    def connect(self) -> tuple[MemoryStream, asyncio.Task[None]]:
        stream = MemoryStream()
        task = asyncio.create_task(self.service.rounds(stream))
        self.tasks.append(task)
        return stream, task

    async def num_sessions(self) -> int:
        await self.host.close("nobody")  # after all earlier calls
        return self.host.stats().num_sessions


@pytest.fixture
async def replica():
    host = EngineHost(lambda: CountingEngine(num_slots=2))
    await host.start()
    replica = Replica(host)
    replica.leases.grant("a")
    yield replica
    for task in replica.tasks:
        task.cancel()
    await asyncio.gather(*replica.tasks, return_exceptions=True)
    assert replica.service.num_streams == 0
    assert await replica.num_sessions() == 0
    await host.stop()


OPEN = OpenCall("a", SamplingTransform(), 64)
DRAFT = DraftCall("a", 1, 0, (5,), StopRule(2))


async def opened(replica: Replica):
    stream, task = replica.connect()
    stream.send(OPEN)
    assert isinstance(await stream.receive(), Opened)
    return stream, task


async def test_a_session_from_open_to_close(replica):
    stream, task = await opened(replica)
    stream.send(DRAFT)
    assert isinstance(await stream.receive(), DraftBlock)
    stream.send(VerifyCall("a", 2, 0, (5,), (6, 7)))
    assert isinstance(await stream.receive(), Verdict)
    assert await replica.num_sessions() == 1
    stream.send(Close())
    await task
    assert await replica.num_sessions() == 0


async def test_the_end_of_the_requests_frees_the_slot(replica):
    stream, task = await opened(replica)
    stream.finish()
    await task
    assert await replica.num_sessions() == 0


async def test_a_cancelled_stream_frees_the_slot(replica):
    _, task = await opened(replica)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await replica.num_sessions() == 0


async def test_a_former_incarnation_is_refused(replica):
    stream, task = await opened(replica)
    stream.send(DRAFT, incarnation="before")
    with pytest.raises(StaleIncarnation, match=r"incarnation before.*is now"):
        await task
    assert await replica.num_sessions() == 0


async def test_without_a_lease_nobody_speaks(replica):
    stream, task = replica.connect()
    stream.send(OpenCall("b", SamplingTransform(), 8), session="b")
    with pytest.raises(UnknownSession):
        await task
    assert await replica.num_sessions() == 0


async def test_one_stream_is_one_session(replica):
    replica.leases.grant("b")
    stream, task = await opened(replica)
    stream.send(DraftCall("b", 1, 0, (5,), StopRule(2)), session="b")
    with pytest.raises(InvalidRequest, match="to session a, the message to b"):
        await task


async def test_the_end_of_the_lease_ends_the_stream_and_frees_the_slot(replica):
    _, task = await opened(replica)
    replica.service.end("a")
    with pytest.raises(UnknownSession):
        await task
    assert await replica.num_sessions() == 0


async def test_a_new_stream_replaces_the_old_one(replica):
    _, old_task = await opened(replica)
    stream, _ = await opened(replica)  # opens at once, though the old stream has not noticed yet
    with pytest.raises(UnknownSession):
        await old_task
    stream.send(DRAFT)
    assert isinstance(await stream.receive(), DraftBlock)
    assert replica.service.num_streams == 1
    assert await replica.num_sessions() == 1


async def test_a_new_stream_starts_without_the_old_ones_cache(replica):
    old, _ = await opened(replica)
    old.send(DRAFT)
    await old.receive()
    stream, _ = replica.connect()
    stream.send(DraftCall("a", 2, 1, (), StopRule(2)))
    assert isinstance(await stream.receive(), UnknownSession)  # an answer: the stream goes on
    stream.send(OPEN)
    assert isinstance(await stream.receive(), Opened)


async def test_frames_do_not_wait_for_each_others_answers(replica):
    stream, _ = await opened(replica)
    for epoch in (1, 2):
        stream.send(DraftCall("a", epoch, 0, (5,), StopRule(2)))
    replies = [await asyncio.wait_for(stream.replies.get(), 5) for _ in range(2)]
    answers = {reply.seq: reply.answer for reply in replies}
    assert isinstance(answers[2], Superseded | DraftBlock)
    assert answers[3] == replace(answers[3], epoch=2, tokens=(6, 7))


async def test_open_and_first_call_may_be_sent_together(replica):
    stream, _ = replica.connect()
    stream.send(OPEN)
    stream.send(DRAFT)
    replies = [await asyncio.wait_for(stream.replies.get(), 5) for _ in range(2)]
    assert [type(reply.answer) for reply in replies] == [Opened, DraftBlock]


async def test_an_answer_that_cannot_be_written_ends_the_stream(replica, caplog):
    stream, task = await opened(replica)

    async def fail(reply):
        raise OverflowError("4 billion tokens")

    stream.write = fail
    stream.send(DRAFT)
    with pytest.raises(AdasdError, match="could not be written"):
        await task
    assert "4 billion tokens" in caplog.text
    assert await replica.num_sessions() == 0


async def test_many_replacements_in_one_instant_leave_one_slot(replica):
    streams = [replica.connect()[0] for _ in range(8)]
    for stream in streams:
        stream.send(OPEN)
    assert isinstance(await streams[-1].receive(), Opened)
    assert await replica.num_sessions() == 1
