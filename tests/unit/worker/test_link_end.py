"""How a link ends at the worker: the frame on its way is waited for, but not for ever, and no task is left."""

import asyncio

import pytest

from adasd.errors import UnknownSession
from services.worker import link_end
from services.worker.link_end import LinkEnd


class SlowStream:
    """A stream whose writes wait for ``gate``."""

    def __init__(self):
        self.gate, self.entered = asyncio.Event(), asyncio.Event()
        self.num_written = 0

    async def write(self, frame):
        self.entered.set()
        await self.gate.wait()
        self.num_written += 1


async def writing_link():
    """A link, its stream and its writer, which is in the middle of a frame."""
    stream = SlowStream()
    link = LinkEnd(stream)
    writing = asyncio.create_task(link.write())
    link.end(1, UnknownSession("a"))
    await stream.entered.wait()
    return link, stream, writing


async def test_the_frame_on_its_way_is_written_and_none_after_it():
    link, stream, writing = await writing_link()
    link.end(2, UnknownSession("b"))
    stopping = asyncio.create_task(link.stop(writing))
    await asyncio.sleep(0)
    stream.gate.set()
    await stopping
    assert stream.num_written == 1
    assert writing.done()
    assert not writing.cancelled()


async def test_a_writer_without_work_ends_at_once():
    link = LinkEnd(SlowStream())
    writing = asyncio.create_task(link.write())
    await asyncio.sleep(0)
    await link.stop(writing)
    assert not writing.cancelled()


async def test_who_does_not_read_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(link_end, "LAST_WRITE_S", 0.01)
    link, stream, writing = await writing_link()
    await link.stop(writing)
    assert writing.cancelled()
    assert stream.num_written == 0


async def test_an_end_that_is_cancelled_leaves_no_writer():
    link, _, writing = await writing_link()
    stopping = asyncio.create_task(link.stop(writing))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    await asyncio.wait({writing})
    assert writing.cancelled()
