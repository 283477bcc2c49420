"""Work in place: one piece at a time, in a fixed order, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from threading import Timer
from typing import Any

import pytest

from adasd.session.events import DraftAttached, DraftLost, Event, TargetAttached
from adasd.session.tasks import InPlaceTasks, finished


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never suspends."""
    with pytest.raises(StopIteration) as ended:
        work.send(None)
    return ended.value.value


def next_event(tasks: InPlaceTasks) -> Event:
    """The next event, awaited as ``adasd.local.in_place`` does."""
    waiting = tasks.next_event()
    while True:
        try:
            waiting.send(None)
        except StopIteration as ended:
            return ended.value
        tasks.wait()


def test_work_that_lets_others_go_first_goes_on_when_they_have_ended_or_wait():
    tasks, told = InPlaceTasks(), list[str]()

    async def polite() -> None:
        told.append("polite")
        tasks.post(TargetAttached())

    async def other() -> None:
        told.append("other begins")
        await asyncio.sleep(0)
        told.append("other ends")
        tasks.post(DraftAttached())

    tasks.spawn(polite(), others_first=True)
    tasks.spawn(other())
    assert told == []  # work begins when somebody waits for an event
    assert run(tasks.next_event()) == DraftAttached()
    assert run(tasks.next_event()) == TargetAttached()
    assert told == ["other begins", "other ends", "polite"]


def test_what_another_thread_does_is_waited_for():
    tasks, future = InPlaceTasks(), Future[int]()

    async def work() -> None:
        assert await finished(future) == 7
        tasks.post(DraftAttached())

    tasks.spawn(work())
    Timer(0.01, future.set_result, (7,)).start()
    assert next_event(tasks) == DraftAttached()


def test_an_error_reaches_whoever_waits_as_it_is():
    tasks = InPlaceTasks()

    async def broken() -> None:
        raise ZeroDivisionError

    tasks.spawn(broken())
    with pytest.raises(ZeroDivisionError):
        tasks.next_event().send(None)


def test_closing_ends_what_waits_and_waits_for_what_has_to_come_to_its_end():
    tasks, told = InPlaceTasks(), list[str]()
    never, soon = Future[None](), Future[None]()

    async def work(name: str, future: Future[None]) -> None:
        try:
            await finished(future)
            told.append(f"{name} is done")
        finally:
            told.append(f"{name} is over")

    tasks.spawn(work("call", never))
    tasks.spawn(work("never begun", never))
    tasks.post(DraftLost())
    assert run(tasks.next_event()) == DraftLost()  # past events come before work
    tasks.spawn(work("release", soon), to_its_end=True)
    Timer(0.01, soon.set_result, (None,)).start()
    run(tasks.close())
    assert told == ["release is done", "release is over"]
