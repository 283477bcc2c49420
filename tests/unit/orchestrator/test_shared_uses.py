"""Limits of API keys over several orchestrators, with a store that answers, fails, forgets and loses messages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from adasd.errors import RateLimited
from adasd.testing.clock import FakeClock
from services.config import ApiKey
from services.gateway.auth.key_ring import KeyRing
from services.gateway.auth.key_uses import WINDOW_S, KeyUses
from services.orchestrator import shared_uses
from services.orchestrator.shared_store import SILENT_S
from services.orchestrator.shared_uses import SharedUses
from tests.patience import soon

KEY = ApiKey("bob", "0" * 64, max_concurrent=2)


class Store:
    """The shared store; ``is_away`` while it does not answer."""

    def __init__(self, clock: FakeClock) -> None:
        self.uses, self.is_away, self.num_asked = KeyUses(clock, SILENT_S), False, 0

    def check(self) -> None:
        if self.is_away:
            raise ConnectionError("away")

    async def take(self, key: ApiKey, num: int, holder: str) -> RateLimited | None:
        self.num_asked += 1
        self.check()
        return self.uses.take(key, num, holder)

    async def give_back(self, name: str, num: int, holder: str, begun: bool) -> None:
        self.check()
        self.uses.give_back(name, num, holder, begun)

    async def hear(self, holder: str, running: Mapping[str, int]) -> None:
        self.check()
        self.uses.hear(holder, running)


class Rig:
    """Three orchestrators with one key."""

    def __init__(self, key: ApiKey = KEY) -> None:
        self.key, self.clock = key, FakeClock()
        self.store = Store(self.clock)
        self.rings = [KeyRing([key], SharedUses(self.store, name, [key], 3)) for name in "abc"]

    async def begin(self, at: int, num: int = 1):
        """An answer at one of the orchestrators; ``aclose`` ends it."""
        answer = self.rings[at].use(self.key, num)
        await answer.__aenter__()
        return answer


async def end(answer) -> None:
    await answer.__aexit__(None, None, None)


async def test_a_small_limit_holds_over_all_and_any_one_may_use_all_of_it():
    rig = Rig()
    first, second = await rig.begin(0), await rig.begin(0)
    for at in range(3):
        with pytest.raises(RateLimited, match="2 answers at once"):
            await rig.begin(at)
    await end(first)
    third = await rig.begin(2)
    with pytest.raises(RateLimited):
        await rig.begin(1)
    await end(second)
    await end(third)
    both = await rig.begin(1, num=2)
    await end(both)
    assert rig.store.uses.running("bob") == 0


async def test_starts_per_minute_are_counted_over_all():
    rig = Rig(ApiKey("bob", "0" * 64, requests_per_minute=4))
    for at in (0, 1, 2, 2):
        await end(await rig.begin(at))
    with pytest.raises(RateLimited) as refused:
        await rig.begin(1)
    assert refused.value.retry_after_s == WINDOW_S
    rig.clock.advance(WINDOW_S)
    await end(await rig.begin(1))


async def test_keys_without_limits_never_ask():
    rig = Rig(ApiKey("bob", "0" * 64))
    await end(await rig.begin(0, num=100))
    assert rig.store.num_asked == 0


async def test_without_the_store_each_allows_its_share_and_at_least_one():
    rig = Rig()
    before = await rig.begin(0)
    rig.store.is_away = True
    with pytest.raises(RateLimited):
        await rig.begin(0)  # its share of 2 over 3 replicas is 1, and that runs
    others = [await rig.begin(at) for at in (1, 2)]
    for answer in (before, *others):
        await end(answer)


async def test_a_store_that_starts_again_learns_from_the_reports():
    rig = Rig()
    answers = [await rig.begin(0), await rig.begin(1)]
    rig.store.uses = KeyUses(rig.clock, SILENT_S)
    for name, ring in zip("abc", rig.rings, strict=True):
        await rig.store.hear(name, ring.all_running())
    with pytest.raises(RateLimited):
        await rig.begin(2)
    for answer in answers:
        await end(answer)


async def test_an_orchestrator_that_died_holds_nothing_after_a_while():
    rig = Rig()
    for _ in range(2):
        await rig.begin(0)
    rig.clock.advance(SILENT_S)
    with pytest.raises(RateLimited):
        await rig.begin(1)
    rig.clock.advance(0.1)
    await end(await rig.begin(1))


async def test_an_end_that_got_lost_is_believed_at_the_second_report():
    rig = Rig()
    answers = [await rig.begin(0), await rig.begin(0)]
    rig.store.is_away = True
    await end(answers[0])
    rig.store.is_away = False
    for running in (2, 1):
        assert rig.store.uses.running("bob") == 2
        await rig.store.hear("a", rig.rings[0].all_running())
        assert rig.store.uses.running("bob") == running
    await end(answers[1])


async def test_a_report_that_a_new_answer_overtook_is_not_believed():
    rig = Rig()
    old = rig.rings[0].all_running()
    first = await rig.begin(0)
    await rig.store.hear("a", old)  # it says 0, and 1 is counted
    second = await rig.begin(0)
    await rig.store.hear("a", old)  # again 0, but now 2 are counted
    with pytest.raises(RateLimited):
        await rig.begin(1)
    await end(first)
    await end(second)


async def test_reports_are_sent_until_it_stops_also_past_an_absence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared_uses, "PERIOD_S", 0.001)
    store = Store(FakeClock())
    store.is_away = True
    uses = SharedUses(store, "a", [KEY], 2)
    uses.start(lambda: {"bob": 1})
    await asyncio.sleep(0.01)
    store.is_away = False
    await soon(lambda: store.uses.running("bob") == 1)
    await uses.stop()
    await uses.stop()
    assert len(asyncio.all_tasks()) == 1
