"""A placement with fake workers that hold one fixed text and fail as configured."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from adasd.control.controller import Controller
from adasd.drafters.lookups import Lookups
from adasd.errors import AdasdError, Overloaded, StaleCache, Superseded, WorkerLost
from adasd.rounds import Assumption, DraftBlock, DraftCall, OpenCall, Verdict, VerifyCall
from adasd.session.runner import SharedParts
from adasd.session.slots import RunnerSettings

EOS = 0


def decode(token_ids: Sequence[int]) -> str:
    return "".join(chr(token) for token in token_ids if token != EOS)


def ids(text: str) -> tuple[int, ...]:
    return tuple(ord(letter) for letter in text)


def shared(controller: Controller, settings: RunnerSettings, lookups: Lookups | None = None) -> SharedParts:
    """The parts that all answers share; tokens are letters."""
    return SharedParts(controller, lookups or Lookups(), frozenset({EOS}), decode, 50_000, settings)


@dataclass
class Faults:
    """How the workers misbehave; probabilities per call, delays in seconds."""

    draft_dies: float = 0.0
    target_dies: float = 0.0
    draft_hangs: float = 0.0
    draft_wrong: float = 0.2  # per token
    draft_dies_every: int = 0  # calls; 0 is never
    target_dies_every: int = 0
    delay_s: float = 0.0
    no_draft_slots: bool = False
    no_target_slots: bool = False
    misses_cancellation: str = ""  # role that attaches slowly, and in spite of a cancellation
    seed: int = 0


@dataclass
class FakeSlot:
    """One slot; checks that no call keeps more tokens than are cached."""

    world: FakePlacement
    role: str
    cache: tuple[int, ...] = ()
    released: bool = False
    newest: int = 0  # epoch of the draft call that counts
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # verdicts are computed one at a time
    said: Verdict | None = None  # the newest verdict
    was_whole: bool = False  # it accepted all of its block

    def __post_init__(self) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def die(self) -> None:
        if not self.lost.done():
            self.lost.set_result("killed by the test")

    def feed(self, keep_len: int, tokens: tuple[int, ...], *, optimistic: bool = False) -> int:
        if self.released or self.lost.done():
            raise WorkerLost(self.role, "it is gone")
        if keep_len > len(self.cache):
            raise StaleCache("s", keep_len, len(self.cache))
        self.cache = self.cache[:keep_len] + tokens
        assert optimistic or self.cache == self.world.text(len(self.cache))
        return len(self.cache)

    async def draft(self, call: DraftCall) -> DraftBlock:
        world, rng = self.world, self.world.rng
        self.newest = call.epoch
        await asyncio.sleep(world.faults.delay_s)
        if self.newest != call.epoch:
            raise Superseded("s", call.epoch)
        if rng.random() < world.faults.draft_hangs:
            await asyncio.sleep(3600)
        if rng.random() < world.faults.draft_dies or world.is_turn("draft", world.faults.draft_dies_every):
            self.die()
        base = self.feed(call.keep_len, call.feed, optimistic=call.optimistic)
        right = world.truth[base : base + call.rule.max_tokens]
        tokens = tuple(ord("?") if rng.random() < world.faults.draft_wrong else token for token in right)
        self.cache += tokens[:-1]
        return DraftBlock("s", call.epoch, base, tokens, (1.0,) * len(tokens), compute_ms=0.1)

    async def verify(self, call: VerifyCall) -> Verdict:
        async with self.turn:
            if call.assuming is not None:
                if self.said is None or not self.bears_out(call.assuming, self.said):
                    raise Superseded("s", call.epoch)
                if call.assuming.next_token is None:
                    call = replace(call, feed=(self.said.next_token,))
            self.said = None
            self.said = verdict = await self.judge(call)
            self.was_whole = verdict.num_accepted == len(call.block)
            return verdict

    def bears_out(self, assumed: Assumption, said: Verdict) -> bool:
        if assumed.epoch != said.epoch or assumed.next_token not in (None, said.next_token):
            return False
        return self.was_whole if assumed.num_accepted is None else assumed.num_accepted == said.num_accepted

    async def judge(self, call: VerifyCall) -> Verdict:
        world = self.world
        await asyncio.sleep(world.faults.delay_s)
        dies_now = world.is_turn("target", world.faults.target_dies_every)
        if world.rng.random() < world.faults.target_dies or dies_now:
            self.die()
        base = self.feed(call.keep_len, call.feed)
        num = 0
        truth = world.text(base + len(call.block) + 1)
        while num < len(call.block) and call.block[num] == truth[base + num]:
            num += 1
        self.cache += call.block[:num]
        judged = min(num + 1, len(call.block))
        exact = tuple(i < num for i in range(judged))
        return Verdict("s", call.epoch, base, num, truth[base + num], (False,) * num, exact, compute_ms=0.1)

    async def release(self) -> None:
        if not self.released:
            self.released = True
            self.world.open_slots.remove(self)
        self.lost.cancel()


@dataclass
class FakePlacement:
    """Hands out FakeSlots; ``open_slots`` must be empty at the end of a test."""

    truth: tuple[int, ...]
    faults: Faults = field(default_factory=Faults)
    draft_names: tuple[str, ...] = ("model",)
    open_slots: list[FakeSlot] = field(default_factory=list)
    num_attached: dict[str, int] = field(default_factory=lambda: {"draft": 0, "target": 0})

    def __post_init__(self) -> None:
        self.rng = random.Random(self.faults.seed)
        self.num_calls = {"draft": 0, "target": 0}

    def text(self, length: int) -> tuple[int, ...]:
        """The text's first tokens; after its end, end-of-sequence tokens."""
        return (*self.truth, *(EOS,) * length)[:length]

    def is_turn(self, role: str, every: int) -> bool:
        """Whether this is the n-th call of a tier."""
        self.num_calls[role] += 1
        return every > 0 and self.num_calls[role] % every == 0

    async def attach_target(self, call: OpenCall) -> FakeSlot:
        await self.dawdle("target")
        return self.attach("target", refuse=self.faults.no_target_slots)

    async def attach_draft(self, call: OpenCall, name: str | None = None) -> FakeSlot:
        await self.dawdle("draft")
        return self.attach("draft", refuse=self.faults.no_draft_slots)

    async def dawdle(self, role: str) -> None:
        if self.faults.misses_cancellation == role:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    def attach(self, role: str, *, refuse: bool) -> FakeSlot:
        if refuse:
            error: AdasdError = Overloaded(f"no {role} slot")
            raise error
        slot = FakeSlot(self, role)
        self.open_slots.append(slot)
        self.num_attached[role] += 1
        return slot
