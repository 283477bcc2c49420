"""The worker's end of links without a network: who may call it, and every way a session ends frees its slot."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from adasd.errors import (
    AdasdError,
    InvalidRequest,
    Overloaded,
    StaleIncarnation,
    Superseded,
    UnknownSession,
    WorkerLost,
)
from adasd.requests import Grammar, GrammarKind
from adasd.rounds import DraftBlock, DraftCall, OpenCall, SamplingTransform, StopRule, Verdict, VerifyCall
from load_tests.latency.counting_engine import CountingEngine
from services.transport.ask_codec import AskBuffer
from services.transport.frames import Ended, Opened
from services.transport.reply_codec import decode_replies
from services.worker import link_end
from services.worker.host import EngineHost
from services.worker.leases import LeaseTable
from services.worker.service import MAX_UNANSWERED, WorkerService
from tests.gated_engine import GatedEngine
from tests.memory_link import CALM, MemoryStream, Way

OPEN = OpenCall("", SamplingTransform(), 64)
GRAMMAR = replace(OPEN, transform=SamplingTransform(grammar=Grammar(GrammarKind.REGEX, "a")))
DRAFT = DraftCall("", 1, 0, (5,), StopRule(2))


class Client:
    """An orchestrator's end of one link, ask by ask. Sessions are 1 for the lease "a" and 2 for the lease "b"."""

    def __init__(self, service: WorkerService) -> None:
        self.stream = MemoryStream(Way(CALM, random.Random(0)), Way(CALM, random.Random(0)))
        self.task = asyncio.create_task(service.link(self.stream))
        self.asks = AskBuffer("now")
        self.num_asks = 0
        self.answers: dict[int, object] = {}
        self.ended: list[Ended] = []

    def open(self, session: int = 1, lease: str = "a", call: OpenCall = OPEN) -> int:
        self.num_asks += 1
        self.asks.add_open(self.num_asks, session, lease, call, {})
        return self.num_asks

    def call(self, call: DraftCall | VerifyCall, session: int = 1) -> int:
        self.num_asks += 1
        self.asks.add_call(self.num_asks, session, call)
        return self.num_asks

    def send(self) -> None:
        self.stream.there.send(self.asks.take())

    async def receive(self) -> None:
        frame = decode_replies(await asyncio.wait_for(self.stream.back.arrived.get(), 5), str)
        self.answers |= {reply.number: reply.answer for reply in frame.replies}
        self.ended += frame.ended

    async def answer(self, number: int) -> object:
        """The answer to an ask, after sending what waits."""
        if self.asks:
            self.send()
        while number not in self.answers:
            await self.receive()
        return self.answers[number]

    async def end_of(self, session: int) -> AdasdError | None:
        if self.asks:
            self.send()
        while not (found := [one for one in self.ended if one.session == session]):
            await self.receive()
        return found[0].error


class Replica:
    def __init__(self, host: EngineHost) -> None:
        self.host, self.leases = host, LeaseTable(4, 60.0, lambda: 0.0)
        self.service = WorkerService(host, self.leases, "now")
        self.clients: list[Client] = []

    def connect(self) -> Client:
        self.clients.append(Client(self.service))
        return self.clients[-1]

    async def opened(self) -> Client:
        client = self.connect()
        assert await client.answer(client.open()) == Opened()
        return client

    async def num_sessions(self) -> int:
        await self.host.close("nobody")  # after all earlier requests
        return self.host.stats().num_sessions


async def replicas(engine: CountingEngine):
    host = EngineHost(lambda: engine)
    await host.start()
    replica = Replica(host)
    for lease in ("a", "b"):
        replica.leases.grant(lease)
    yield replica
    for client in replica.clients:
        client.task.cancel()
    await asyncio.gather(*(client.task for client in replica.clients), return_exceptions=True)
    assert replica.service.num_streams == 0
    assert await replica.num_sessions() == 0
    assert not host._waiting
    await host.stop()


@pytest.fixture
async def replica():
    async for one in replicas(CountingEngine(num_slots=2)):
        yield one


@pytest.fixture
async def gated():
    """Its engine's steps last until ``engine.gate`` is set."""
    engine = GatedEngine(num_slots=2)
    async for one in replicas(engine):
        one.engine = engine
        yield one
        engine.gate.set()


async def test_a_session_from_open_to_close(replica):
    client = await replica.opened()
    assert isinstance(await client.answer(client.call(DRAFT)), DraftBlock)
    assert isinstance(await client.answer(client.call(VerifyCall("", 2, 0, (5,), (6, 7)))), Verdict)
    assert await replica.num_sessions() == 1
    client.asks.add_close(1)
    assert await client.end_of(1) is None
    assert await replica.num_sessions() == 0
    client.asks.add_close(1)  # again: the answer is the same
    client.ended.clear()
    assert await client.end_of(1) is None


async def test_a_whole_session_fits_one_frame_and_keeps_its_order(replica):
    client = replica.connect()
    client.asks.add_close(1)
    client.call(DRAFT)
    client.open()
    verdict, block = (
        client.call(VerifyCall("", 1, 0, (5,), (6, 7)), 2),
        client.call(replace(DRAFT, epoch=2), 2),
    )
    opening = client.open(2, "b")
    assert isinstance(await client.answer(verdict), Verdict)
    assert isinstance(await client.answer(block), DraftBlock)
    assert await client.answer(opening) == Opened()
    assert await client.end_of(1) is None
    assert len(client.answers) == 3  # who closes at once gets no answers


async def test_answers_of_one_step_come_in_one_frame(gated):
    client = gated.connect()
    await client.answer(client.open(1, "a"))
    await client.answer(client.open(2, "b"))
    for session in (1, 2):
        client.call(DRAFT, session)
    client.send()
    gated.engine.gate.set()
    await client.receive()
    assert len(client.answers) == 4


async def test_the_end_of_the_requests_frees_the_slots(replica):
    client = await replica.opened()
    client.stream.there.end()
    await client.task
    assert await replica.num_sessions() == 0


async def test_a_cancelled_link_frees_the_slots(replica):
    client = await replica.opened()
    client.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client.task
    assert await replica.num_sessions() == 0


async def test_a_former_incarnation_is_refused(replica):
    client = await replica.opened()
    client.asks = AskBuffer("before")
    client.call(DRAFT)
    client.send()
    with pytest.raises(StaleIncarnation, match="incarnation before, which this replica is not"):
        await client.task
    assert await replica.num_sessions() == 0


async def test_without_a_lease_nobody_speaks(replica):
    client = replica.connect()
    client.open(7, "stranger")
    assert isinstance(await client.end_of(7), UnknownSession)
    assert isinstance(await client.answer(client.call(DRAFT, 7)), UnknownSession)
    assert await replica.num_sessions() == 0


async def test_sessions_of_a_link_end_alone(replica):
    client = await replica.opened()
    await client.answer(client.open(2, "b"))
    replica.service.end("a")
    assert isinstance(await client.end_of(1), UnknownSession)
    assert isinstance(await client.answer(client.call(DRAFT, 1)), UnknownSession)
    assert isinstance(await client.answer(client.call(DRAFT, 2)), DraftBlock)
    assert await replica.num_sessions() == 1


async def test_a_lease_that_is_over_is_noticed_at_the_next_call(replica):
    client = await replica.opened()
    replica.leases.release(replica.leases._held["a"][0])
    client.call(DRAFT)
    assert isinstance(await client.end_of(1), UnknownSession)
    assert await replica.num_sessions() == 0


async def test_a_number_is_opened_once_and_an_opening_that_comes_twice_changes_nothing(replica, caplog):
    client = await replica.opened()
    twice = client.open(1, "b")
    assert isinstance(await client.answer(client.call(DRAFT)), DraftBlock)
    assert twice not in client.answers
    assert "session 1 of a link was opened twice" in caplog.text
    assert await replica.num_sessions() == 1


async def test_a_new_link_takes_a_session_over(replica):
    old = await replica.opened()
    client = await replica.opened()  # opens at once, though the old link has not noticed yet
    assert isinstance(await old.end_of(1), UnknownSession)
    refusal = await client.answer(client.call(replace(DRAFT, keep_len=1)))
    assert isinstance(refusal, AdasdError)  # without the old one's cache
    assert isinstance(await client.answer(client.call(replace(DRAFT, epoch=2))), DraftBlock)
    assert replica.service.num_streams == 1
    assert await replica.num_sessions() == 1


async def test_many_replacements_in_one_frame_and_on_many_links_leave_one_slot(replica):
    for _ in range(4):
        client = replica.connect()
        for session in range(1, 5):
            client.open(session, "a")
        client.send()
    assert isinstance(await client.answer(4), Opened)
    assert await replica.num_sessions() == 1


async def test_asks_do_not_wait_for_each_others_answers(replica):
    client = await replica.opened()
    first, second = client.call(DRAFT), client.call(replace(DRAFT, epoch=2))
    assert await client.answer(second) == replace(client.answers[second], epoch=2, tokens=(6, 7))
    assert isinstance(await client.answer(first), Superseded | DraftBlock)


async def test_a_closed_session_is_answered_no_more_and_not_computed(gated):
    client = await gated.opened()
    client.call(DRAFT)
    client.send()
    await asyncio.to_thread(gated.engine.entered.wait, 5)
    client.call(VerifyCall("", 2, 0, (5,)))
    client.asks.add_close(1)
    client.send()
    gated.engine.gate.set()
    assert await client.end_of(1) is None
    assert list(client.answers) == [1]
    assert gated.host.stats().num_steps == 1


async def test_a_link_that_ends_while_its_session_closes_takes_nobody_elses_answer(gated):
    client, other = await gated.opened(), gated.connect()
    client.call(DRAFT)
    client.send()
    await asyncio.to_thread(gated.engine.entered.wait, 5)
    client.asks.add_close(1)
    client.send()
    opening = other.open(2, "b")
    other.send()
    client.stream.there.end()
    await client.task
    gated.engine.gate.set()
    assert await other.answer(opening) == Opened()
    assert await gated.num_sessions() == 1


async def test_one_session_cannot_fill_the_queue(gated):
    client = await gated.opened()
    await client.answer(client.open(2, "b"))
    numbers = [client.call(replace(DRAFT, epoch=epoch)) for epoch in range(1, MAX_UNANSWERED + 2)]
    refusal = await client.answer(numbers[-1])
    assert isinstance(refusal, Overloaded)
    assert f"{MAX_UNANSWERED} calls of session a wait already" in str(refusal)
    other = client.call(DRAFT, 2)
    client.send()
    gated.engine.gate.set()
    assert isinstance(await client.answer(other), DraftBlock)
    assert isinstance(await client.answer(client.call(replace(DRAFT, epoch=99))), DraftBlock)


async def test_an_answer_that_cannot_be_sent_is_an_error_and_spares_the_others(replica, caplog):
    client = await replica.opened()
    engine_draft = CountingEngine._draft
    try:
        # a position that no field holds
        CountingEngine._draft = lambda engine, call: replace(engine_draft(engine, call), base_len=-1)
        broken = await client.answer(client.call(DRAFT))
    finally:
        CountingEngine._draft = engine_draft
    assert "could not be sent" in str(broken)
    assert "does not fit its field" in caplog.text
    assert isinstance(await client.answer(client.call(replace(DRAFT, epoch=2))), DraftBlock)


async def test_a_link_that_cannot_be_written_to_ends_and_frees_its_slots(replica):
    client = await replica.opened()

    async def fail(frame: bytes) -> None:
        raise OSError("no wire")

    client.stream.write = fail
    client.call(DRAFT)
    client.send()
    with pytest.raises(AdasdError, match="replies could not be written"):
        await client.task
    assert await replica.num_sessions() == 0


async def test_a_worker_that_stops_ends_its_links_and_says_why(replica):
    client = await replica.opened()
    await replica.service.stop()
    with pytest.raises(WorkerLost, match="the target worker was lost: it is shutting down"):
        await client.task
    assert await replica.num_sessions() == 0


async def test_who_does_not_read_is_not_read_from(replica, monkeypatch):
    monkeypatch.setattr(link_end, "MAX_UNSENT_BYTES", 100)
    client = await replica.opened()
    stuck = asyncio.Event()
    write = client.stream.write

    async def wait(frame: bytes) -> None:
        await stuck.wait()
        await write(frame)

    client.stream.write = wait
    for epoch in range(1, 9):
        client.call(replace(DRAFT, epoch=epoch))
        client.send()
        await replica.num_sessions()
    assert client.stream.there.arrived.qsize() > 0
    stuck.set()
    assert isinstance(await client.answer(client.num_asks), DraftBlock)
    assert client.stream.there.arrived.qsize() == 0


async def test_a_grammar_that_is_compiled_too_late_takes_no_slot(replica, monkeypatch):
    ready = asyncio.Event()

    async def prepare(call: OpenCall) -> None:
        await ready.wait()
        if call.transform.grammar.text == "(":
            raise InvalidRequest("unclosed group", "grammar")

    monkeypatch.setattr(replica.host, "prepare", prepare)
    client = replica.connect()
    client.open(1, "a", GRAMMAR)
    bad = client.open(
        2, "b", replace(OPEN, transform=SamplingTransform(grammar=Grammar(GrammarKind.REGEX, "(")))
    )
    client.asks.add_close(1)
    assert await client.end_of(1) is None
    ready.set()
    assert isinstance(await client.answer(bad), InvalidRequest)
    assert await replica.num_sessions() == 0
    assert isinstance(await client.answer(client.open(3, "a", GRAMMAR)), Opened)
