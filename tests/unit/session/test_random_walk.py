"""Session and two fake workers through random acceptances, losses, late replies and cancellation.

The fake target holds a fixed text, so the answer must always be that text, each token once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from adasd.rounds import Assumption, DraftBlock, DraftCall, Verdict, VerifyCall
from adasd.session.events import (
    AskDraft,
    AskPlan,
    AskVerify,
    AttachTarget,
    Cancel,
    DraftAnswered,
    DraftAttached,
    DraftLate,
    DraftLost,
    Emit,
    Event,
    Finish,
    Planned,
    TargetAnswered,
    TargetAttached,
    TargetDeclined,
    TargetLost,
)
from adasd.session.protocol import step
from tests.unit.session.helpers import ids, planned, start

TEXT = "the quick brown fox jumps over the lazy dog and runs away into the deep dark wood"


@dataclass
class Worker:
    """A slot that checks that no call keeps more tokens than it has cached."""

    cache: list[int] | None = None

    def open(self) -> None:
        self.cache = []

    def close(self) -> None:
        self.cache = None

    def feed(self, keep_len: int, tokens: tuple[int, ...]) -> list[int]:
        assert self.cache is not None, "a call reached a closed slot"
        assert keep_len <= len(self.cache), "kept more than is cached"
        self.cache = [*self.cache[:keep_len], *tokens]
        return self.cache


@dataclass
class World:
    rng: random.Random
    truth: tuple[int, ...]  # goes on after the answer's end
    target: Worker = field(default_factory=Worker)
    draft: Worker = field(default_factory=Worker)
    mailbox: list[Event] = field(default_factory=list)
    said: Verdict | None = None  # the newest verdict
    was_whole: bool = False  # it accepted all of its block

    def judge(self, call: VerifyCall, trouble: float) -> Event:
        """As a worker does; sometimes it does not know the verdict that a call assumes."""
        if call.assuming is not None:
            if not self.bears_out(call.assuming) or self.rng.random() < trouble:
                return TargetDeclined(call.epoch)
            if call.assuming.next_token is None:
                call = replace(call, feed=(self.said.next_token,))
        self.said = self.verdict(call)
        self.was_whole = self.said.num_accepted == len(call.block)
        return TargetAnswered(self.said)

    def bears_out(self, assumed: Assumption) -> bool:
        said = self.said
        if said is None or assumed.epoch != said.epoch or assumed.next_token not in (None, said.next_token):
            return False
        return self.was_whole if assumed.num_accepted is None else assumed.num_accepted == said.num_accepted

    def verdict(self, call: VerifyCall) -> Verdict:
        fed = self.target.feed(call.keep_len, call.feed)
        assert tuple(fed) == self.truth[: len(fed)], "the target was fed something that was never committed"
        base = len(fed)
        num = 0
        while num < len(call.block) and call.block[num] == self.truth[base + num]:
            num += 1
        self.target.feed(base, call.block[:num])
        return Verdict(call.session, call.epoch, base, num, self.truth[base + num])

    def block(self, call: DraftCall) -> DraftBlock:
        fed = self.draft.feed(call.keep_len, call.feed)
        assert call.optimistic or tuple(fed) == self.truth[: len(fed)], "the draft kept a rejected token"
        base = len(fed)
        right = self.truth[base : base + self.rng.randint(0, call.rule.max_tokens)]
        tokens = tuple(token if self.rng.random() < 0.85 else ord("?") for token in right)
        self.draft.feed(base, tokens[:-1])
        drafted = DraftBlock(call.session, call.epoch, base, tokens, (1.0,) * len(tokens))
        if not call.rule.want_runner_ups:
            return drafted
        # often unsure where it is wrong, and its runner-up is often right there
        others = tuple(token if self.rng.random() < 0.8 else ord("!") for token in right)
        doubts = [0.9 if self.rng.random() < 0.2 else 0.5 * (token == ord("?")) for token in tokens]
        return replace(drafted, runner_ups=others, confidences=tuple(1 - each for each in doubts))


def pick(world: World) -> int:
    """The two streams are independent: usually the older message comes first, but not always."""
    first = world.mailbox[0]
    if (
        len(world.mailbox) > 1
        and isinstance(first, TargetAnswered | TargetDeclined)
        and world.rng.random() < 0.5
    ):
        others = [i for i, event in enumerate(world.mailbox) if isinstance(event, DraftAnswered)]
        return others[0] if others else 0
    return 0


def overtake(world: World) -> None:
    """A newer draft call replaces one that is under way, or comes too late."""
    waiting = [event for event in world.mailbox if isinstance(event, DraftAnswered)]
    for event in waiting:
        if world.rng.random() < 0.7:
            world.mailbox.remove(event)


def plan(rng: random.Random, *, ahead: bool, early: bool) -> Planned:
    """Often a plain round, so that several follow each other."""
    return planned(rng.choice([0, rng.randint(1, 6)]), ahead=ahead, early=early)


def walk(seed: int, *, trouble: float, cancel: bool, ahead: bool, early: bool) -> tuple[str, World, bool]:
    rng = random.Random(seed)
    prompt = "say: "
    world = World(rng, (*ids(prompt + TEXT), 0, *ids("x" * 40)))
    session, actions = start(prompt, max_tokens=200)
    shown, finished, late = "", False, []
    draft_is_dead = target_is_dead = False
    world.draft.open()
    world.mailbox.append(DraftAttached())
    for _ in range(3000):
        for action in actions:
            match action:
                case AttachTarget():
                    world.target.open()
                    world.mailbox.append(TargetAttached())
                    target_is_dead = False
                case AskVerify(call) if not target_is_dead:
                    if rng.random() < trouble:
                        world.target.close()
                        target_is_dead = True
                        world.mailbox.append(TargetLost())
                    else:
                        world.mailbox.append(world.judge(call, trouble))
                case AskDraft(call) if not draft_is_dead:
                    overtake(world)
                    if rng.random() < trouble:
                        world.draft.close()
                        draft_is_dead = True
                        world.mailbox.append(DraftLost())
                    else:
                        answer = DraftAnswered(world.block(call))
                        if rng.random() < trouble:
                            world.mailbox.append(DraftLate(call.epoch))
                            late.append(answer)
                        else:
                            world.mailbox.append(answer)
                case AskPlan():
                    world.mailbox.insert(0, plan(rng, ahead=ahead, early=early))
                case Emit(chunk):
                    shown += chunk.text
                case Finish():
                    finished = True
                    world.target.close()
                    world.draft.close()
        if finished and not world.mailbox and not late:
            break
        if late and (rng.random() < 0.3 or not world.mailbox):
            world.mailbox.append(late.pop(0))
        if draft_is_dead and not finished and DraftLost() not in world.mailbox and rng.random() < 0.3:
            late.clear()  # its stream ended with it
            world.draft.open()
            draft_is_dead = False
            world.mailbox.append(DraftAttached())
        if cancel and not finished and rng.random() < 0.02:
            world.mailbox.append(Cancel())
        if not world.mailbox:
            actions = ()
            continue
        session, actions = step(session, world.mailbox.pop(pick(world)))
    return shown, world, finished


@settings(max_examples=250)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.4]), st.booleans(), st.booleans(), st.booleans())
def test_whatever_happens_the_text_is_right_and_the_slots_are_free(seed, trouble, cancel, ahead, early):
    shown, world, finished = walk(seed, trouble=trouble, cancel=cancel, ahead=ahead, early=early)
    assert finished
    assert world.target.cache is None
    assert world.draft.cache is None
    assert TEXT.startswith(shown) if cancel else shown == TEXT
