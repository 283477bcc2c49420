"""The orchestrator's end of a link: what leaves together, and that every ask ends in its own way."""

from __future__ import annotations

import asyncio

import pytest

from adasd.errors import Cancelled, InvalidRequest, StaleCache, WorkerLost
from adasd.rounds import DraftBlock, DraftCall, OpenCall, SamplingTransform, StopRule, Verdict, VerifyCall
from services.transport.frames import AskFrame, Opened
from services.transport.link import Link, WorkerAddress
from services.transport.reply_codec import ReplyBuffer
from tests.leaks import nothing_runs
from tests.memory_link import MemoryChannel, MemoryStream

WORKER = WorkerAddress("target", "nowhere:1", "life")


class Rig:
    """A link to a worker that notes the frames; the test answers."""

    def __init__(self) -> None:
        self.frames: list[AskFrame] = []
        self.stream: MemoryStream | None = None
        self.ended = asyncio.Event()
        self.channel = MemoryChannel(self.note)
        self.num_over = 0
        self.link = Link(self.channel, WORKER, self.note_end)  # type: ignore[arg-type]

    async def note(self, stream: MemoryStream) -> None:
        self.stream = stream
        while (frame := await stream.read({})) is not None:
            self.frames.append(frame)

    def note_end(self) -> None:
        self.num_over += 1

    async def answer(self, fill) -> None:
        """Send one frame, filled by ``fill``, and let it arrive."""
        buffer = ReplyBuffer()
        fill(buffer)
        self.stream.back.send(buffer.take())
        await turns()

    def break_off(self) -> None:
        self.stream.there.end()


async def turns(num: int = 6) -> None:
    for _ in range(num):
        await asyncio.sleep(0)


@pytest.fixture
async def rig():
    rig = Rig()
    await turns()
    yield rig
    await rig.link.shut_down()
    await rig.link.shut_down()
    assert rig.num_over == 1
    assert await nothing_runs()


def draft(epoch: int = 1) -> DraftCall:
    return DraftCall("", epoch, 0, (5,), StopRule(3))


def verdict(epoch: int = 1) -> Verdict:
    return Verdict("", epoch, 1, 0, 7)


async def test_asks_of_one_turn_leave_in_one_frame(rig: Rig):
    sessions = [rig.link.session(f"s{i}") for i in range(5)]

    async def ask(session) -> None:
        rig.link.open(session, OpenCall("", SamplingTransform(), 8), {"trace": session.lease}, 9.0)
        rig.link.ask(session, draft(), 9.0)

    await asyncio.gather(*map(ask, sessions))
    await turns()
    (frame,) = rig.frames
    assert frame.incarnation == "life"
    assert [(one.call.session, one.headers) for one in frame.opens] == [
        (f"s{i}", {"trace": f"s{i}"}) for i in range(5)
    ]
    assert [one.call.session for one in frame.calls] == [f"s{i}" for i in range(5)]


async def test_what_is_asked_during_a_write_leaves_in_the_next_frame(rig: Rig):
    session = rig.link.session("s")
    rig.channel.may_write.clear()
    for epoch in range(5):
        rig.link.ask(session, draft(epoch), 9.0)
        await turns()
    rig.channel.may_write.set()
    await turns()
    assert [[one.call.epoch for one in frame.calls] for frame in rig.frames] == [[0], [1, 2, 3, 4]]


async def test_every_reply_goes_to_its_ask_whatever_its_order(rig: Rig):
    one, other = rig.link.session("one"), rig.link.session("other")
    opening = rig.link.open(one, OpenCall("", SamplingTransform(), 8), {}, 9.0)
    first, second = rig.link.ask(one, VerifyCall("", 1, 0, ()), 9.0), rig.link.ask(other, draft(), 9.0)
    await turns()

    def fill(buffer: ReplyBuffer) -> None:
        buffer.add(3, DraftBlock("", 1, 1, (6,), (0.5,)))
        buffer.add(2, StaleCache("one", 4, 0))
        buffer.add(1, Opened())
        buffer.add(99, verdict())  # nobody asked that

    await rig.answer(fill)
    assert opening.result() == Opened()
    assert isinstance(first.exception(), StaleCache)
    assert (second.result().session, second.result().tokens) == ("other", (6,))


async def test_a_deadline_is_the_asks_own(rig: Rig):
    session = rig.link.session("s")
    patient, hasty = rig.link.ask(session, draft(1), 30.0), rig.link.ask(session, draft(2), 0.02)
    hastier = rig.link.ask(session, draft(3), 0.01)
    await asyncio.wait({hasty}, timeout=10.0)
    for late, limit in ((hasty, "0.02"), (hastier, "0.01")):
        with pytest.raises(WorkerLost, match=rf"no answer from nowhere:1 in {limit} s"):
            await late
    assert not patient.done()
    await rig.answer(lambda buffer: [buffer.add(number, verdict()) for number in (1, 2, 3)])
    assert patient.result().next_token == 7  # and the late ones are dropped


async def test_the_reply_to_a_caller_that_left_is_dropped(rig: Rig):
    session = rig.link.session("s")
    left, stayed = rig.link.ask(session, draft(1), 9.0), rig.link.ask(session, draft(2), 9.0)
    left.cancel()
    await rig.answer(lambda buffer: [buffer.add(number, verdict(number)) for number in (1, 2)])
    assert stayed.result().epoch == 2


async def test_an_ask_that_does_not_fit_is_its_callers_and_the_link_goes_on(rig: Rig):
    session = rig.link.session("s")
    with pytest.raises(InvalidRequest, match="does not fit"):
        rig.link.ask(session, DraftCall("", 1, -1, (), StopRule(1)), 9.0)
    answer = rig.link.ask(session, draft(2), 9.0)
    await turns()
    await rig.answer(lambda buffer: buffer.add(rig.frames[0].calls[0].number, verdict(2)))
    assert answer.result().epoch == 2


async def test_a_closed_session_ends_its_callers_and_no_others(rig: Rig):
    one, other = rig.link.session("one"), rig.link.session("other")
    ends, stays = rig.link.ask(one, draft(), 9.0), rig.link.ask(other, draft(), 9.0)
    assert not rig.link.close(one)  # a call was under way: nothing to wait for
    with pytest.raises(Cancelled, match="the line of session one was closed"):
        await ends
    assert rig.link.close(rig.link.session("third"))
    await turns()
    assert rig.frames[0].closes == (one.number, 3)
    await rig.answer(lambda buffer: buffer.add_end(one.number, None))
    assert one.ended.result() is None
    assert not stays.done()


async def test_a_session_that_the_worker_ends_says_why_and_is_alone(rig: Rig):
    one, other = rig.link.session("one"), rig.link.session("other")
    ends, stays = rig.link.ask(one, draft(), 9.0), rig.link.ask(other, draft(), 9.0)
    await rig.answer(lambda buffer: buffer.add_end(one.number, StaleCache("one", 1, 0)))
    assert isinstance(ends.exception(), StaleCache)
    assert isinstance(one.ended.result(), StaleCache)
    assert not rig.link.close(one)  # over already: nothing is sent
    assert not stays.done()


async def test_the_end_of_the_link_ends_all_sessions_also_later_ones(rig: Rig):
    session = rig.link.session("s")
    answer = rig.link.ask(session, draft(), 9.0)
    await turns()
    rig.break_off()
    with pytest.raises(WorkerLost, match="nowhere:1 ended the link"):
        await answer
    later = rig.link.session("later")
    assert later.ended.result() is session.ended.result() is rig.link.over


async def test_a_frame_that_cannot_be_decoded_ends_the_link(rig: Rig):
    answer = rig.link.ask(rig.link.session("s"), draft(), 9.0)
    await turns()
    rig.stream.back.send(b"\xff\xff")
    with pytest.raises(WorkerLost, match="no ReplyFrame"):
        await answer


async def test_a_link_that_cannot_write_is_lost_and_says_so(rig: Rig, caplog):
    async def fail(frame: bytes) -> None:
        raise OSError("no wire")

    rig.channel.calls[0].write = fail
    with pytest.raises(WorkerLost, match="cannot write to it: OSError: no wire"):
        await rig.link.ask(rig.link.session("s"), draft(), 9.0)
