"""The host: one thread, one engine, many callers; every caller gets a reply."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from adasd.errors import (
    AdasdError,
    DeviceFailure,
    InvalidRequest,
    Overloaded,
    StaleCache,
    Superseded,
    UnknownSession,
    WorkerLost,
)
from adasd.requests import Grammar, GrammarKind
from adasd.rounds import (
    Assumption,
    CallFailed,
    DraftCall,
    OpenCall,
    SamplingTransform,
    StopRule,
    Verdict,
    VerifyCall,
)
from load_tests.latency.counting_engine import CountingEngine
from services.worker.host import EngineHost
from tests.gated_engine import GatedEngine, entered
from tests.leaks import nothing_runs
from tests.patience import soon


class Hosts:
    """Starts hosts and stops them at the end."""

    def __init__(self) -> None:
        self.started: list[EngineHost] = []

    async def start(self, engine: CountingEngine, **options) -> EngineHost:
        host = EngineHost(lambda: engine, **options)
        self.started.append(host)
        await host.start()
        return host


@pytest.fixture
async def hosts():
    hosts = Hosts()
    yield hosts
    for host in hosts.started:
        await host.stop()
    assert not [t for t in threading.enumerate() if t.name.endswith("-engine")], "an engine's thread is left"
    assert await nothing_runs(), asyncio.all_tasks()


def opening(session: str, max_len: int = 64) -> OpenCall:
    return OpenCall(session, SamplingTransform(), max_len)


def drafting(session: str, epoch: int = 1, keep_len: int = 0, feed=(5,), num_tokens: int = 3) -> DraftCall:
    return DraftCall(session, epoch, keep_len, feed, StopRule(num_tokens))


async def test_a_round_goes_through(hosts):
    host = await hosts.start(CountingEngine())
    await host.open(opening("a"))
    assert (await host.submit(drafting("a"))).tokens == (6, 7, 8)
    verdict = await host.submit(VerifyCall("a", 2, 0, (5,), (6, 7, 9)))
    assert (verdict.num_accepted, verdict.next_token) == (2, 8)
    await host.close("a")
    assert host.stats().num_sessions == 0


async def test_facts_are_the_engines(hosts):
    host = await hosts.start(CountingEngine(num_slots=3, max_context=77, vocab_size=11))
    assert (host.facts.num_slots, host.facts.max_context, host.facts.vocab_size) == (3, 77, 11)


async def test_calls_that_wait_together_share_a_batch(hosts):
    engine = GatedEngine()
    host = await hosts.start(engine)
    sessions = [f"s{i}" for i in range(9)]
    for session in sessions:
        await host.open(opening(session))
    calls = [asyncio.create_task(host.submit(drafting(session))) for session in sessions[:1]]
    await entered(engine)  # the others arrive during the first one's step
    calls += [asyncio.create_task(host.submit(drafting(session))) for session in sessions[1:]]
    await asyncio.sleep(0)
    engine.gate.set()
    await asyncio.gather(*calls)
    stats = host.stats()
    assert dict(stats.batch_sizes) == {1: 1, 8: 1}
    assert (stats.num_steps, stats.num_calls, stats.num_failed, stats.num_tokens) == (2, 9, 0, 27)
    assert stats.mean_batch == 4.5


async def test_queue_and_compute_add_up_to_the_time_in_the_worker(hosts):
    engine = GatedEngine(step_ms=20.0)
    host = await hosts.start(engine)
    for session in ("a", "b"):
        await host.open(opening(session))
    first = asyncio.create_task(host.submit(drafting("a")))
    await entered(engine)
    began_s = time.perf_counter()
    asked = asyncio.create_task(host.submit(drafting("b")))
    await asyncio.sleep(0.01)
    engine.gate.set()
    second = await asked
    wall_ms = 1e3 * (time.perf_counter() - began_s)
    assert second.compute_ms == 20.0
    assert second.queue_ms > 5.0  # it waited for the first one's step
    assert second.compute_ms + second.queue_ms <= wall_ms
    await first


async def test_an_error_is_the_callers_own(hosts):
    host = await hosts.start(CountingEngine(num_slots=1))
    await host.open(opening("a"))
    with pytest.raises(Overloaded):
        await host.open(opening("b"))
    with pytest.raises(UnknownSession):
        await host.submit(drafting("b"))
    with pytest.raises(StaleCache):
        await host.submit(drafting("a", keep_len=5))
    with pytest.raises(InvalidRequest):
        await host.submit(drafting("a", num_tokens=1000, epoch=2))
    assert (await host.submit(drafting("a", epoch=3))).tokens == (6, 7, 8)
    assert host.stats().num_failed == 3


async def test_a_failed_call_raises_its_error_and_spares_the_others(hosts):
    class Failing(CountingEngine):
        def step(self):
            return [
                CallFailed(a.session, a.epoch, DeviceFailure("no memory")) if a.session == "bad" else a
                for a in super().step()
            ]

    host = await hosts.start(Failing())
    for session in ("good", "bad"):
        await host.open(opening(session))
    good, bad = await asyncio.gather(
        host.submit(drafting("good")), host.submit(drafting("bad")), return_exceptions=True
    )
    assert good.tokens == (6, 7, 8)
    assert isinstance(bad, DeviceFailure)


async def test_a_bug_in_submit_is_the_callers_error_and_not_the_end(hosts):
    class Buggy(CountingEngine):
        def submit(self, call):
            if call.feed == ():
                raise ZeroDivisionError("oops")
            super().submit(call)

    host = await hosts.start(Buggy())
    await host.open(opening("a"))
    with pytest.raises(AdasdError, match="ZeroDivisionError: oops"):
        await host.submit(drafting("a", feed=()))
    await host.submit(drafting("a", epoch=2))


async def test_what_was_overtaken_on_the_way_is_refused_and_changes_nothing(hosts):
    host = await hosts.start(CountingEngine())
    await host.open(opening("a"))
    await host.submit(drafting("a", epoch=5))
    for stale in (4, 5):
        with pytest.raises(Superseded):
            await host.submit(drafting("a", epoch=stale))
    assert (await host.submit(drafting("a", epoch=6))).tokens == (6, 7, 8)


async def test_a_cancelled_caller_leaves_the_session_in_step(hosts):
    engine = GatedEngine()
    host = await hosts.start(engine)
    await host.open(opening("a"))
    first = asyncio.create_task(host.submit(drafting("a", epoch=1)))
    await entered(engine)
    first.cancel()
    second = asyncio.create_task(host.submit(VerifyCall("a", 2, 0, (50,))))
    third = asyncio.create_task(host.submit(VerifyCall("a", 3, 0, (60,))))
    fourth = asyncio.create_task(host.submit(drafting("a", epoch=4, feed=(70,))))
    await asyncio.sleep(0.01)
    third.cancel()
    await asyncio.sleep(0)
    engine.gate.set()
    assert (await second).next_token == 51
    assert (await fourth).tokens == (71, 72, 73)
    assert host.stats().num_calls == 3  # the third was never computed
    await asyncio.gather(first, third, return_exceptions=True)


async def test_a_newer_draft_call_overtakes_an_older_one(hosts):
    engine = GatedEngine()
    host = await hosts.start(engine)
    for session in ("a", "b"):
        await host.open(opening(session))
    first = asyncio.create_task(host.submit(drafting("b")))
    await entered(engine)  # while "b" is in its step, the following calls wait in the engine's queue
    asked = [asyncio.create_task(host.submit(drafting("a", epoch=i, feed=(10 * i,)))) for i in (1, 2, 3)]
    await asyncio.sleep(0.01)
    engine.gate.set()
    *overtaken, newest = await asyncio.gather(*asked, return_exceptions=True)
    assert [(type(error), error.epoch) for error in overtaken] == [(Superseded, 1), (Superseded, 2)]
    assert newest.tokens == (31, 32, 33)
    assert (await first).tokens == (6, 7, 8)
    assert host.stats().num_pending == 0


async def test_closing_a_session_answers_who_waits_for_it(hosts):
    engine = GatedEngine(num_slots=1)
    host = await hosts.start(engine)
    await host.open(opening("a"))
    waiting = [asyncio.create_task(host.submit(VerifyCall("a", i, 0, (5,)))) for i in (1, 2)]
    await entered(engine)
    closing = asyncio.create_task(host.close("a"))
    await asyncio.sleep(0)
    engine.gate.set()
    await closing
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(a, UnknownSession) or a.epoch == 1 for a in answers)
    assert isinstance(answers[1], UnknownSession)
    await host.close("a")  # idempotent
    await host.open(opening("b"))  # the slot is free


async def test_stop_answers_everybody(hosts):
    engine = GatedEngine()
    host = await hosts.start(engine, role="draft")
    await host.open(opening("a"))
    waiting = asyncio.create_task(host.submit(drafting("a")))
    await entered(engine)
    stopping = asyncio.create_task(host.stop())
    with pytest.raises(WorkerLost, match="draft worker was lost: it is shutting down"):
        await waiting
    engine.gate.set()
    await stopping
    with pytest.raises(WorkerLost):
        await host.submit(drafting("a"))
    with pytest.raises(WorkerLost):
        host.check(10.0)
    await host.stop()


async def test_a_fatal_error_surfaces_everywhere(hosts, caplog):
    class Broken(CountingEngine):
        def step(self):
            raise RuntimeError("the device fell off the bus")

    host = await hosts.start(Broken())
    for session in ("a", "b"):
        await host.open(opening(session))
    host.check(10.0)
    answers = await asyncio.gather(
        host.submit(drafting("a")), host.submit(drafting("b")), return_exceptions=True
    )
    assert all(isinstance(a, DeviceFailure) and "fell off the bus" in str(a) for a in answers)
    for _ in range(2):
        with pytest.raises(DeviceFailure, match="fell off"):
            await host.open(opening("c"))
    with pytest.raises(DeviceFailure):
        host.check(10.0)
    assert "fell off the bus" in caplog.text


async def test_an_engine_that_cannot_be_made_says_so():
    def fail():
        raise ValueError("no such file")

    host = EngineHost(fail)
    with pytest.raises(ValueError, match="no such file"):
        await host.start()
    await host.stop()


async def test_a_hanging_step_fails_the_check(hosts):
    engine = GatedEngine()
    host = await hosts.start(engine)
    await host.open(opening("a"))
    waiting = asyncio.create_task(host.submit(drafting("a")))
    await entered(engine)
    host.check(hang_after_s=5.0)
    await asyncio.sleep(0.03)
    with pytest.raises(DeviceFailure, match=r"more than 0\.01 s"):
        host.check(hang_after_s=0.01)
    engine.gate.set()
    await waiting
    await soon(lambda: host._thread.step_began_s is None)
    host.check(hang_after_s=0.01)


async def test_an_idle_host_checks_integrity_once_and_sleeps(hosts):
    class Checked(CountingEngine):
        num_checks = 0

        def check_integrity(self):
            self.num_checks += 1
            super().check_integrity()

    engine = Checked()
    host = await hosts.start(engine, idle_check_s=0.02)
    cpu_before_s = time.process_time()
    await soon(lambda: engine.num_checks == 1)
    await asyncio.sleep(0.2)
    assert engine.num_checks == 1
    assert time.process_time() - cpu_before_s < 0.15
    await host.open(opening("a"))
    await soon(lambda: engine.num_checks == 2)


async def test_a_broken_slot_table_ends_the_host(hosts):
    class Leaky(CountingEngine):
        def check_integrity(self):
            raise AssertionError("slot 3 is used twice")

    host = await hosts.start(Leaky(), idle_check_s=0.01)
    await soon(lambda: host._ended_by is not None)
    with pytest.raises(DeviceFailure, match="slot 3 is used twice"):
        await host.open(opening("a"))


async def test_a_steps_tokens_are_the_prompts_that_it_completed_and_what_it_decided(hosts):
    host = await hosts.start(CountingEngine())
    await host.open(OpenCall("s", SamplingTransform(temperature=0.0), max_len=100))
    await host.submit(VerifyCall("s", 1, 0, tuple(range(10))))  # ten of a prompt, one decided
    await host.submit(VerifyCall("s", 2, 10, (10,), (11, 12)))  # two accepted, one after them
    await host.submit(VerifyCall("s", 3, 13, (13,)))
    stats = host.stats()
    assert stats.step_tokens == ((1, 1), (8, 1), (16, 1))
    assert stats.num_step_tokens == 11 + 3 + 1


class PreparingEngine(CountingEngine):
    """Its grammars compile only after ``ready`` is set."""

    def __init__(self, error: AdasdError | None = None) -> None:
        super().__init__()
        self.asked, self.ready, self.error = threading.Event(), threading.Event(), error

    def prepare(self, call: OpenCall) -> None:
        assert threading.current_thread().name != "target-engine"
        self.asked.set()
        assert self.ready.wait(10)
        if self.error is not None:
            raise self.error


GRAMMAR = OpenCall("a", SamplingTransform(grammar=Grammar(GrammarKind.REGEX, "a+")), 64)


async def test_while_a_grammar_compiles_the_others_go_on(hosts):
    engine = PreparingEngine()
    host = await hosts.start(engine)
    waiting = asyncio.create_task(host.open(GRAMMAR))
    assert await asyncio.to_thread(engine.asked.wait, 10)
    await host.open(opening("b"))
    assert (await host.submit(drafting("b"))).tokens == (6, 7, 8)
    assert host.stats().num_sessions == 1
    engine.ready.set()
    await waiting
    assert host.stats().num_sessions == 2


async def test_a_grammar_that_does_not_compile_takes_no_slot(hosts):
    engine = PreparingEngine(InvalidRequest("no", "grammar"))
    engine.ready.set()
    host = await hosts.start(engine)
    with pytest.raises(InvalidRequest, match="no"):
        await host.open(GRAMMAR)
    assert engine.num_free_slots == engine.num_slots


async def test_whoever_leaves_while_its_grammar_compiles_takes_no_slot(hosts):
    engine = PreparingEngine()
    host = await hosts.start(engine)
    waiting = asyncio.create_task(host.open(GRAMMAR))
    assert await asyncio.to_thread(engine.asked.wait, 10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    engine.ready.set()
    await host.open(opening("b"))
    assert host.stats().num_sessions == 1


async def judged(host: EngineHost, *, assumed: int, after: bool) -> tuple:
    """The block 6, 7 after 5, which the verdict extends by 8; and the block 9, 10, which assumes ``assumed``."""
    await host.open(opening("a"))
    first = host.submit(VerifyCall("a", 1, 0, (5,), (6, 7)))
    later = VerifyCall("a", 2, 3, (8,), (9, 10), assuming=Assumption(1, assumed))
    if after:
        return await first, (await asyncio.gather(host.submit(later), return_exceptions=True))[0]
    verdicts = await asyncio.gather(first, host.submit(later), return_exceptions=True)
    return tuple(verdicts)


@pytest.mark.parametrize("after", [False, True], ids=["asked early", "asked after the verdict"])
async def test_what_comes_true_is_judged_without_a_further_word(hosts, after):
    host = await hosts.start(CountingEngine())
    first, second = await judged(host, assumed=8, after=after)
    assert (first.num_accepted, first.next_token) == (2, 8)
    assert (second.num_accepted, second.next_token) == (2, 11)


@pytest.mark.parametrize("after", [False, True], ids=["asked early", "asked after the verdict"])
async def test_what_does_not_come_true_is_not_judged_and_changes_nothing(hosts, after):
    engine = CountingEngine()
    host = await hosts.start(engine)
    first, second = await judged(host, assumed=9, after=after)
    assert (first.num_accepted, first.next_token) == (2, 8)
    assert isinstance(second, Superseded)
    assert engine.cached_len("a") == 3
    assert (await host.submit(VerifyCall("a", 3, 3, (8,), (9,)))).num_accepted == 1


@pytest.mark.parametrize("after", [False, True], ids=["asked early", "asked after the verdict"])
async def test_the_target_decodes_on_behind_whichever_token_follows(hosts, after):
    host = await hosts.start(CountingEngine())
    await host.open(opening("a"))
    calls = [VerifyCall("a", 1, 0, (5,))]
    calls += [VerifyCall("a", epoch, epoch - 1, (), assuming=Assumption(epoch - 1, None)) for epoch in (2, 3)]
    if after:
        verdicts = [await host.submit(call) for call in calls]
    else:
        verdicts = await asyncio.gather(*map(host.submit, calls))
    assert [(verdict.base_len, verdict.next_token) for verdict in verdicts] == [(1, 6), (2, 7), (3, 8)]


async def test_nothing_follows_a_round_that_failed_or_rejected(hosts):
    engine = CountingEngine()
    host = await hosts.start(engine)
    await host.open(opening("a"))
    failed, behind = await asyncio.gather(
        host.submit(VerifyCall("a", 1, 7, (5,))),  # keeps more than is cached
        host.submit(VerifyCall("a", 2, 8, (), assuming=Assumption(1, None))),
        return_exceptions=True,
    )
    assert (type(failed), type(behind)) == (StaleCache, Superseded)
    rejected, behind = await asyncio.gather(
        host.submit(VerifyCall("a", 3, 0, (5,), (6, 9))),
        host.submit(VerifyCall("a", 4, 3, (), assuming=Assumption(3, None))),
        return_exceptions=True,
    )
    assert (rejected.num_accepted, type(behind)) == (1, Superseded)
    assert engine.cached_len("a") == 2


async def test_a_verdict_is_remembered_until_the_next_and_of_its_own_session_only(hosts):
    host = await hosts.start(CountingEngine())
    for session in ("a", "b"):
        await host.open(opening(session))
    await host.submit(VerifyCall("a", 1, 0, (5,), (6, 7)))
    with pytest.raises(Superseded):
        await host.submit(VerifyCall("b", 2, 0, (5,), (6,), assuming=Assumption(1, 8)))
    await host.submit(VerifyCall("a", 2, 3, (8,)))
    with pytest.raises(Superseded):
        await host.submit(VerifyCall("a", 3, 4, (9,), (10,), assuming=Assumption(1, 8)))


async def test_of_several_outcomes_the_one_that_comes_true_is_judged(hosts):
    engine = CountingEngine()
    host = await hosts.start(engine)
    await host.open(opening("a"))
    calls = [VerifyCall("a", 1, 0, (5,), (6, 9))]  # 9 will be rejected for 7
    calls += [VerifyCall("a", 2, 3, (10,), (11,), assuming=Assumption(1, 10))]
    calls += [VerifyCall("a", 3, 1, (8,), (9,), assuming=Assumption(1, 8, num_accepted=0))]
    calls += [VerifyCall("a", 4, 2, (7,), (8, 9), assuming=Assumption(1, 7, num_accepted=1))]
    calls += [VerifyCall("a", 5, 2, (7,), (8,), assuming=Assumption(1, 7, num_accepted=1))]
    verdicts = await asyncio.gather(*map(host.submit, calls), return_exceptions=True)
    assert [type(verdict) for verdict in verdicts] == [Verdict, Superseded, Superseded, Verdict, Superseded]
    assert (verdicts[3].base_len, verdicts[3].num_accepted, verdicts[3].next_token) == (3, 2, 10)
    assert engine.cached_len("a") == 5


async def test_half_a_block_is_no_assumption_come_true(hosts):
    host = await hosts.start(CountingEngine())
    await host.open(opening("a"))
    assert (await host.submit(VerifyCall("a", 1, 0, (5,), (6, 9)))).next_token == 7
    with pytest.raises(Superseded):
        await host.submit(VerifyCall("a", 2, 2, (7,), (8,), assuming=Assumption(1, 7)))
