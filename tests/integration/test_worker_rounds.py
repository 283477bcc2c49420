"""Worker and line over real gRPC on loopback: rounds, refusals, losses, and nothing left behind."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import grpc
import numpy as np
import pytest

from adasd.config import EngineConfig
from adasd.errors import (
    Cancelled,
    DeviceFailure,
    InvalidRequest,
    Overloaded,
    StaleCache,
    StaleIncarnation,
    UnknownSession,
    WorkerLost,
)
from adasd.requests import Grammar, GrammarKind
from adasd.rounds import (
    AcceptanceRule,
    DraftBlock,
    DraftCall,
    OpenCall,
    SamplingTransform,
    StopRule,
    VerifyCall,
)
from adasd.testing.fake_engine import FakeEngine
from adasd.testing.faulty_port import Calls
from adasd.testing.letters import letter_grammars
from adasd.testing.loops import draft, verify
from adasd.testing.table_model import TableModel
from load_tests.latency import round_trip
from load_tests.latency.counting_engine import CountingEngine
from protos.adasd.v1 import worker_pb2 as pb
from services.config import TierConfig
from services.transport.ask_codec import AskBuffer
from services.transport.link import WorkerAddress
from services.transport.link_pool import LinkPool
from services.transport.options import FORMER_METHOD, LINK_METHOD
from services.transport.rounds_client import RoundsLine
from services.transport.server import start_server, worker_handler
from services.transport.status import ERROR_KEY, error_from_rpc
from services.worker.host import EngineHost
from services.worker.leases import LeaseTable
from services.worker.service import WorkerService
from services.worker.worker import Worker, bind_host
from tests.gated_engine import GatedEngine, entered
from tests.leaks import nothing_runs
from tests.patience import PATIENCE_S, soon

INCARNATION = "life-1"
TIER = TierConfig(EngineConfig("counting"))


class Replica:
    """A worker without Ray, and a client's pool."""

    def __init__(self, engine: CountingEngine) -> None:
        self.engine, self.host = engine, EngineHost(lambda: engine, "target")
        self.leases = LeaseTable(1000, 60.0, time.monotonic)
        self.pool = LinkPool()
        self.service = WorkerService(self.host, self.leases, INCARNATION)
        self.lines: list[RoundsLine] = []

    async def start(self) -> None:
        await self.host.start()
        self.server = await start_server([worker_handler(self.service, "target")], "127.0.0.1")
        self.at = WorkerAddress("target", self.server.address, INCARNATION)

    def line(self, session: str = "a", incarnation: str = INCARNATION, timeout_s: float = 10.0) -> RoundsLine:
        line = RoundsLine(
            self.pool, WorkerAddress("target", self.server.address, incarnation), session, timeout_s
        )
        self.lines.append(line)
        return line

    async def opened(self, session: str = "a", **options) -> RoundsLine:
        self.leases.grant(session)
        line = self.line(session, **options)
        await line.open(opening(session))
        return line

    async def stop(self) -> None:
        await asyncio.gather(*(line.close() for line in self.lines))
        await self.pool.close()
        await self.server.stop()
        await self.host.stop()

    async def slots_free(self) -> None:
        await soon(lambda: self.engine.num_free_slots == self.engine.num_slots)


def opening(session: str, max_len: int = 64) -> OpenCall:
    return OpenCall(session, SamplingTransform(), max_len)


def drafting(
    session: str = "a", epoch: int = 1, keep_len: int = 0, feed=(5,), num_tokens: int = 3
) -> DraftCall:
    return DraftCall(session, epoch, keep_len, feed, StopRule(num_tokens))


@pytest.fixture
async def start():
    """Starts replicas; at the end all slots are free and no task is left."""
    replicas: list[Replica] = []

    async def start(engine: CountingEngine | None = None) -> Replica:
        replicas.append(Replica(engine or CountingEngine()))
        await replicas[-1].start()
        return replicas[-1]

    yield start
    for replica in replicas:
        gate = getattr(replica.engine, "gate", None)
        if gate is not None:
            gate.set()
        await asyncio.gather(*(line.close() for line in replica.lines))
        await replica.slots_free()
        assert replica.service.num_streams == 0
        await replica.stop()
    await asyncio.sleep(0.05)
    assert await nothing_runs(), asyncio.all_tasks()
    assert not [t for t in threading.enumerate() if t.name.endswith("-engine")]


# --------------------------------------------------------------------------- the ordinary


async def test_rounds_go_through_and_close_frees_the_slot(start):
    replica = await start()
    line = await replica.opened()
    calls: Calls = line
    drafted = await calls.draft(drafting())
    assert (drafted.session, drafted.base_len, drafted.tokens) == ("a", 1, (6, 7, 8))
    verdict = await calls.verify(VerifyCall("a", 2, 0, (5,), drafted.tokens))
    assert (verdict.num_accepted, verdict.next_token) == (3, 9)
    await line.close()
    assert replica.engine.num_free_slots == replica.engine.num_slots


async def test_a_failed_call_leaves_the_line_usable(start):
    replica = await start()
    line = await replica.opened()
    with pytest.raises(StaleCache) as stale:
        await line.draft(drafting(keep_len=9))
    assert (stale.value.session, stale.value.keep_len, stale.value.cached_len) == ("a", 9, 0)
    with pytest.raises(InvalidRequest):
        await line.draft(drafting(num_tokens=1000, epoch=2))
    with pytest.raises(InvalidRequest, match="does not fit"):  # refused before it is sent
        await line.draft(drafting(keep_len=-1))
    assert (await line.draft(drafting(epoch=3))).tokens == (6, 7, 8)


@pytest.mark.parametrize(
    "transform",
    [
        SamplingTransform(temperature=0.0),
        SamplingTransform(seed=7),
        SamplingTransform(seed=-3, top_k=5, temperature=0.7),
    ],
)
async def test_the_wire_changes_no_answer(start, transform):
    """Probabilities, top-k distributions and distances over the wire equal those of the same engine in process."""
    model = TableModel.random(vocab_size=16, seed=3)
    replica, direct = await start(FakeEngine(model)), FakeEngine(model)
    replica.leases.grant("a")
    line, call = replica.line("a"), OpenCall("a", transform, 64)
    await line.open(call)
    direct.open(call)
    accept = AcceptanceRule("fsd", {"max_distance": 0.4}, 2, want_distances=True)
    asked = DraftCall("a", 1, 0, (1, 5, 2), StopRule(6, entropy_ceiling=2.5, row_len=16))
    drafted, expected = await line.draft(asked), draft(direct, asked)
    assert np.array_equal(drafted.distributions.ids, expected.distributions.ids)
    assert np.array_equal(drafted.distributions.logprobs, expected.distributions.logprobs)
    assert bare(drafted) == bare(expected)
    asked = VerifyCall("a", 2, 0, (1, 5, 2), drafted.tokens[::-1], drafted.distributions, accept)
    verdict = await line.verify(asked)
    assert len(verdict.distances) > 0
    assert bare(verdict) == bare(verify(direct, asked))


def bare(answer):
    """An answer without what differs between runs: times, and arrays, which compare by identity."""
    rows = {"distributions": None} if isinstance(answer, DraftBlock) else {}
    return replace(answer, compute_ms=0.0, queue_ms=0.0, **rows)


async def test_many_sessions_share_batches(start):
    replica = await start(CountingEngine(num_slots=24, step_ms=4.0))
    lines = await asyncio.gather(*(replica.opened(f"s{i}") for i in range(24)))
    assert len(replica.pool) == 1

    async def rounds(line: RoundsLine) -> None:
        for epoch in range(10):
            drafted = await line.draft(drafting(line.session, epoch))
            assert drafted.tokens == (6, 7, 8)
            assert drafted.epoch == epoch

    await asyncio.gather(*map(rounds, lines))
    stats = replica.host.stats()
    assert stats.num_calls == 240
    assert stats.mean_batch > 4.0


async def test_full_is_said_to_the_one_who_asks(start):
    replica = await start(CountingEngine(num_slots=1))
    await replica.opened("a")
    with pytest.raises(Overloaded):
        await replica.opened("b")


# --------------------------------------------------------------------------- who may speak


async def test_a_former_incarnation_is_refused(start):
    replica = await start()
    replica.leases.grant("a")
    line = replica.line(incarnation="life-0")
    with pytest.raises(StaleIncarnation) as stale:
        await line.open(opening("a"))
    assert stale.value.expected == "life-0"
    assert "life-1" not in f"{stale.value} {stale.value.args}", "a stranger learns nothing that opens a slot"
    with pytest.raises(StaleIncarnation):  # the line has ended and says why
        await line.draft(drafting())


async def test_without_a_lease_nobody_speaks(start):
    replica = await start()
    with pytest.raises(UnknownSession):
        await replica.line().open(opening("a"))


async def test_the_end_of_the_lease_ends_the_line(start):
    replica = await start(GatedEngine())
    line = await replica.opened()
    waiting = asyncio.create_task(line.draft(drafting()))
    await entered(replica.engine)
    replica.service.end("a")
    with pytest.raises(UnknownSession):
        await waiting


async def test_a_second_line_of_the_session_replaces_the_first(start):
    replica = await start()
    first = await replica.opened()
    await first.draft(drafting())
    second = await replica.opened()
    with pytest.raises(UnknownSession):
        await first.draft(drafting(epoch=2))
    assert (await second.draft(drafting())).tokens == (6, 7, 8)


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"not a message at all"])
async def test_garbage_is_an_invalid_argument_and_the_worker_goes_on(start, garbage):
    replica = await start()
    refusal = await refused(replica, LINK_METHOD, garbage)
    assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert ERROR_KEY in dict(refusal.trailing_metadata())
    line = await replica.opened()
    assert (await line.draft(drafting())).tokens == (6, 7, 8)


async def refused(replica: Replica, method: str, *messages: bytes) -> grpc.aio.AioRpcError:
    """The refusal of a stream that sends these: it may come before all of them are written."""
    async with grpc.aio.insecure_channel(replica.server.address) as channel:
        stream = channel.stream_stream(method)()
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await converse(stream, messages)
    return refusal.value


async def converse(stream: grpc.aio.StreamStreamCall, messages: Iterable[bytes]) -> None:
    for message in messages:
        await stream.write(message)
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_an_orchestrator_that_knows_no_frames_is_told_so(start):
    """During a rolling upgrade: it takes the worker for lost, and leases another one."""
    replica = await start()
    refusal = await refused(replica, FORMER_METHOD, b"")
    error = error_from_rpc(refusal, "target")
    assert isinstance(error, WorkerLost)
    assert "it speaks frames, the caller's version does not" in str(error)
    assert refusal.code() is grpc.StatusCode.UNAVAILABLE


async def test_arrays_that_do_not_fit_are_an_invalid_argument_and_free_the_slot(start):
    """Many times, as the reply to the opening may be on its way when the link ends."""
    replica = await start()
    bad = pb.AskFrame(incarnation=INCARNATION, drafts=pb.DraftAsks(ids=b"123"))
    for _ in range(50):
        replica.leases.grant("a")
        asks = AskBuffer(INCARNATION)
        asks.add_open(1, 1, "a", opening("a"), {})
        refusal = await asyncio.wait_for(
            refused(replica, LINK_METHOD, asks.take(), bad.SerializeToString()), PATIENCE_S
        )
        assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "token ids: 3 bytes" in refusal.details()
        await replica.slots_free()


# --------------------------------------------------------------------------- late, cancelled, closed


async def test_a_late_answer_is_dropped_and_the_line_stays_in_step(start):
    replica = await start(GatedEngine())
    line = await replica.opened()
    with pytest.raises(WorkerLost, match=r"no answer from .* in 0\.1 s"):
        await line.draft(drafting(epoch=1), timeout_s=0.1)
    next_call = asyncio.create_task(line.draft(drafting(epoch=2, feed=(50,))))
    await asyncio.sleep(0.05)
    replica.engine.gate.set()
    drafted = await next_call
    assert (drafted.epoch, drafted.tokens) == (2, (51, 52, 53))
    assert (await line.draft(drafting(epoch=3, feed=(60,)))).tokens == (61, 62, 63)


async def test_a_cancelled_caller_leaves_the_line_in_step(start):
    replica = await start(GatedEngine())
    line = await replica.opened()
    for delay_s in (0.0, 0.02):  # before it is written, and while the worker computes
        call = asyncio.create_task(line.draft(drafting(epoch=1)))
        await asyncio.sleep(delay_s)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    replica.engine.gate.set()
    assert (await line.draft(drafting(epoch=2, feed=(60,)))).tokens == (61, 62, 63)


async def test_close_while_a_call_waits_answers_it_and_frees_the_slot(start):
    replica = await start(GatedEngine())
    line = await replica.opened()
    waiting = asyncio.create_task(line.draft(drafting()))
    await entered(replica.engine)
    await asyncio.gather(line.close(), line.close(), line.close())
    with pytest.raises(Cancelled):
        await waiting
    with pytest.raises(Cancelled):
        await line.draft(drafting())
    replica.engine.gate.set()
    await replica.slots_free()


async def test_a_cancelled_close_still_closes(start):
    replica = await start()
    line = await replica.opened()
    closing = asyncio.create_task(line.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await replica.slots_free()
    await line.close()


async def test_a_line_to_nobody_is_lost_at_once():
    pool = LinkPool()
    line = RoundsLine(pool, WorkerAddress("draft", "127.0.0.1:1", "x"), "a", timeout_s=3600.0)
    with pytest.raises(WorkerLost, match="the draft worker was lost: UNAVAILABLE"):
        await line.open(opening("a"))
    await line.close()
    await pool.close()


# --------------------------------------------------------------------------- losses


async def test_a_client_that_vanishes_frees_its_slot(start):
    replica = await start()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    replica.leases.grant("a")
    client = context.Process(target=client_process, args=(replica.server.address, theirs))
    client.start()
    assert await asyncio.to_thread(ours.poll, 30)
    assert replica.engine.num_free_slots == replica.engine.num_slots - 1
    os.kill(client.pid, signal.SIGKILL)
    await replica.slots_free()
    await asyncio.to_thread(client.join)


def client_process(address: str, ready) -> None:
    """Opens a slot and never comes back."""

    async def hold() -> None:
        line = RoundsLine(LinkPool(), WorkerAddress("target", address, INCARNATION), "a", 10.0)
        await line.open(opening("a"))
        ready.send("opened")
        await asyncio.sleep(60)

    asyncio.run(hold())


async def test_a_killed_worker_is_lost_at_once():
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    slow = partial(CountingEngine, step_ms=3.6e6)
    worker = context.Process(target=round_trip.worker_process, args=("target", ["a"], theirs, slow))
    worker.start()
    assert await asyncio.to_thread(ours.poll, 30)
    pool = LinkPool()
    line = RoundsLine(
        pool, WorkerAddress("target", ours.recv(), round_trip.INCARNATION), "a", timeout_s=3600.0
    )
    await line.open(opening("a"))
    waiting = asyncio.create_task(line.verify(VerifyCall("a", 1, 0, (5,))))
    await asyncio.sleep(0.1)
    os.kill(worker.pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(WorkerLost, match="the target worker was lost"):
            await waiting
    with pytest.raises(WorkerLost):
        await line.verify(VerifyCall("a", 2, 0, (5,)))
    await line.close()
    await pool.close()
    await asyncio.to_thread(worker.join)


async def test_a_stopping_host_answers_its_callers(start):
    replica = await start(GatedEngine())
    line = await replica.opened()
    waiting = asyncio.create_task(line.draft(drafting()))
    await entered(replica.engine)
    stopping = asyncio.create_task(replica.host.stop())
    with pytest.raises(WorkerLost, match="shutting down"):
        await waiting
    replica.engine.gate.set()
    await stopping
    for session in list(replica.engine._slots):
        replica.engine.close(session)  # the engine ended with its host


async def test_a_stopping_server_ends_the_line(start):
    replica = await start(GatedEngine())
    line = await replica.opened()
    waiting = asyncio.create_task(line.draft(drafting()))
    await entered(replica.engine)
    await replica.server.stop()
    with pytest.raises(WorkerLost):
        await waiting
    replica.engine.gate.set()
    await replica.slots_free()


# --------------------------------------------------------------------------- links


async def test_a_link_is_shared_lingers_and_is_closed(start):
    replica = await start()
    pool = LinkPool(linger_s=0.05)
    link = pool.acquire(replica.at)
    assert pool.acquire(replica.at) is link
    pool.release(link)
    await asyncio.sleep(0.1)
    assert len(pool) == 1
    pool.release(link)
    assert pool.acquire(replica.at) is link  # used again before it was closed
    pool.release(link)
    await soon(lambda: len(pool) == 0)
    await soon(lambda: isinstance(link.over, Cancelled))
    await pool.close()
    pool.release(link)


async def test_a_broken_link_is_replaced(start):
    """The first worker dies and another one comes up; sessions of both lives do not mix."""
    replica = await start()
    line = await replica.opened()
    await replica.server.stop()
    with pytest.raises(WorkerLost):
        await line.draft(drafting())
    await soon(lambda: len(replica.pool) == 0)
    replica.server = await start_server([worker_handler(replica.service, "target")], "127.0.0.1")
    replica.at = WorkerAddress("target", replica.server.address, INCARNATION)
    other = await replica.opened()
    assert (await other.draft(drafting())).tokens == (6, 7, 8)


# --------------------------------------------------------------------------- the replica under Serve


@pytest.fixture
async def replica():
    """A Worker as Serve makes it, on a CountingEngine."""
    worker = Worker.__new__(Worker)
    engine = CountingEngine(num_slots=2)
    await worker.__init__("target", TIER, idle_ttl_s=0.3, make_engine=lambda: engine)
    worker.engine = engine
    yield worker
    await worker.__del__()
    assert worker.__del__() is None
    with pytest.raises(WorkerLost):
        worker.check_health()


async def test_a_lease_leads_to_a_slot_and_its_end_frees_it(replica):
    pool = LinkPool()
    async with aclosing(replica.lease("a")) as lease:
        grant = await anext(lease)
        assert (grant["num_slots"], grant["max_context"], grant["vocab_size"]) == (2, 4096, 1000)
        assert grant["verdict_backend"] == "fake"
        assert grant == replica.record_replica_metadata()
        at = WorkerAddress(grant["role"], grant["address"], grant["incarnation"])
        line = RoundsLine(pool, at, "a", timeout_s=5.0)
        await line.open(opening("a"))
        assert (await line.draft(drafting())).tokens == (6, 7, 8)
        stats = await replica.stats()
        assert (stats["num_sessions"], stats["num_leases"], stats["num_streams"]) == (1, 1, 1)
        assert replica.record_autoscaling_stats()["sessions"] == 1.0
    await soon(lambda: line.over is not None)  # a write that crosses the end gets a plain loss
    with pytest.raises(UnknownSession):
        await line.draft(drafting(epoch=2))
    assert replica.engine.num_free_slots == 2
    await line.close()
    await pool.close()


async def test_a_silent_lease_expires(replica):
    began_s = time.monotonic()
    items = [item async for item in replica.lease("a")]
    assert len(items) == 1
    assert time.monotonic() - began_s > 0.25
    assert (await replica.stats())["num_leases"] == 0


async def test_traffic_keeps_the_lease_until_it_stops(replica):
    replica._leases.idle_ttl_s = 1.0
    pool = LinkPool()
    lease = replica.lease("a")
    grant = await anext(lease)
    over = asyncio.ensure_future(anext(lease, None))
    line = RoundsLine(pool, WorkerAddress("target", grant["address"], grant["incarnation"]), "a", 5.0)
    await line.open(opening("a"))
    for epoch in range(12):
        await asyncio.sleep(0.1)
        await line.draft(drafting(epoch=epoch))
        assert not over.done()
    async with asyncio.timeout(PATIENCE_S):
        assert await over is None
    await soon(lambda: line.over is not None)
    with pytest.raises(UnknownSession):
        await line.draft(drafting(epoch=99))
    await line.close()
    await pool.close()


async def test_all_slots_leased_is_overloaded(replica):
    replica._lease_timeout_s = 0.05
    async with (
        aclosing(replica.lease("a")) as a,
        aclosing(replica.lease("b")) as b,
        aclosing(replica.lease("c")) as c,
    ):
        await anext(a), await anext(b)
        with pytest.raises(Overloaded):
            await anext(c)


async def test_health_fails_with_the_engine(replica):
    replica.check_health()
    replica.engine.step = lambda: 1 / 0
    with pytest.raises(DeviceFailure):
        await asyncio.gather(replica._host.open(opening("a")), replica._host.submit(drafting()))
    with pytest.raises(DeviceFailure, match="ZeroDivisionError"):
        replica.check_health()
    replica._host._ended_by = WorkerLost("target", "for the fixture")


async def test_a_model_that_cannot_be_loaded_fails_the_constructor_and_leaves_nothing():
    def fail():
        raise ValueError("weights are truncated")

    worker = Worker.__new__(Worker)
    with pytest.raises(ValueError, match="weights are truncated"):
        await worker.__init__("draft", TIER, make_engine=fail)
    assert worker.__del__() is None
    assert not [t for t in threading.enumerate() if t.name.endswith("-engine")]


@pytest.mark.parametrize(
    ("host", "bound"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("::1", "::1"),
        ("0.0.0.0", "10.0.0.7"),
        ("gpu-box", "10.0.0.7"),
    ],
)
def test_loopback_stays_loopback_and_the_rest_is_the_nodes_address(host, bound):
    assert bind_host(host, "10.0.0.7") == bound


async def test_logit_options_and_log_probabilities_go_over_the_wire(start):
    """A grammar, penalties and log-probabilities through codec, service and host to an engine and back."""
    model = TableModel.random(16, seed=3)
    prompt, grammar = (1, 2, 3), Grammar(GrammarKind.REGEX, "(!#)+%")
    transform = SamplingTransform(
        0.0, frequency_penalty=0.5, repetition_penalty=1.2, answer_from=3, grammar=grammar
    )
    call = OpenCall("a", transform, 64, logprobs=2, prompt_logprobs=1)
    alone = FakeEngine(model, grammars=letter_grammars(16))
    alone.open(call)
    expected = [
        verify(alone, VerifyCall("a", 0, 0, prompt)),
        verify(alone, VerifyCall("a", 1, 3, (0,), (2, 5, 0))),
    ]
    alone.close("a")
    replica = await start(FakeEngine(model, grammars=letter_grammars(16)))
    replica.leases.grant("a")
    line = replica.line("a")
    await line.open(call)
    answers = [
        await line.verify(VerifyCall("a", 0, 0, prompt)),
        await line.verify(VerifyCall("a", 1, 3, (0,), (2, 5, 0))),
    ]
    for ours, theirs in zip(answers, expected, strict=True):
        assert (ours.num_accepted, ours.next_token) == (theirs.num_accepted, theirs.next_token)
        assert (ours.logprobs, ours.prompt_logprobs) == (theirs.logprobs, theirs.prompt_logprobs)
    assert len(answers[0].prompt_logprobs) == 2
    assert answers[1].num_accepted == 1
    replica.leases.grant("b")
    bad = OpenCall("b", SamplingTransform(grammar=Grammar(GrammarKind.REGEX, "(")), 64)
    with pytest.raises(InvalidRequest, match="unclosed group") as refusal:
        await replica.line("b").open(bad)
    assert refusal.value.param == "grammar"
