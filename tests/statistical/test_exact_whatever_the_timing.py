"""Mode exact where times depend on what was drafted, proved without chance.

A session, its target and its draft run in virtual time. Drafting takes time per token, so a block that goes on arrives
later; the draft goes on while the target judges, and prepares for a rejection; what arrives when decides what the
target's pass holds, and that decides the price of later tokens. Every draw of every path is enumerated, as in
``test_exact_by_enumeration``, and the joint distribution of the answer is compared with the target's. Planted bugs
show that it would be seen if a token's fate depended on what comes after it.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from adasd.engine.work import VerifyWork
from adasd.requests import GenerationRequest, SamplingParams
from adasd.rounds import (
    BLOCK,
    AcceptanceRule,
    DraftCall,
    OpenCall,
    SamplingTransform,
    StopRule,
    Verdict,
    VerifyCall,
)
from adasd.session.events import (
    Action,
    AskDraft,
    AskPlan,
    AskVerify,
    AttachTarget,
    DraftAnswered,
    DraftAttached,
    DraftLate,
    Emit,
    Event,
    Planned,
    TargetAnswered,
    TargetAttached,
    TargetDeclined,
)
from adasd.session.protocol import begin, step
from adasd.specdec.verification_budget import SessionPrices, judged_len, learned, refused_by_budget
from adasd.specdec.verify_reference import masked, sampling_probs
from adasd.testing.table_model import TableModel
from tests.statistical.test_exact_by_enumeration import Book, BookEngine

V, LENGTH, COMPARED, PROMPT = 2, 7, 4, (1, 0)
TARGET = TableModel.random(V, seed=6, sharpness=1.0)
DRAFT = TARGET.disturbed(1.2, seed=11)
"""Its entropy is .2 to .3 nats after token 1 and .6 to .7 after token 0, so a block's length depends on its tokens."""
TOKEN_S, VERDICT_S, SLOW_VERDICT_S = 1.0, 2.4, 4.5
"""Time of a drafted token, and of a pass of the target."""
SAMPLING = SamplingTransform()
BY_TOKEN, WHOLE_BLOCKS = AcceptanceRule(), AcceptanceRule(BLOCK)
NEIGHBOUR = (0.97, 0.95)
"""Confidences of the block that shares the pass, if this session's block comes in time."""


@dataclass(frozen=True)
class Setting:
    """What a run is like; the last two are the planted bugs."""

    ceiling: float = 0.45  # nats; blocks end after a more uncertain token
    longest: int = 3
    ahead: bool = False
    for_rejection: bool = False
    budget: int | None = None
    patience_s: float = math.inf
    draft: TableModel = DRAFT
    length: int = LENGTH
    late_s: float = math.inf  # a block that takes longer is dropped
    cut_by_the_pass: bool = False  # TETRIS by who shares the pass


@dataclass
class World:
    """One path: both engines, the clock and what is to come."""

    book: Book
    setting: Setting
    now_s: float = 0.0
    due: list[tuple[float, int, Callable[[], Event | None]]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    prices: SessionPrices = field(default_factory=lambda: SessionPrices(0.8, 0.8))
    price: float = 0.8
    lens: list[int] = field(default_factory=list)  # of the judged blocks
    num_cut: int = 0
    num_ahead_used: int = 0

    def __post_init__(self) -> None:
        models = TARGET, self.setting.draft
        self.target, self.draft = (BookEngine(model, clock=lambda: self.now_s) for model in models)
        for engine in (self.target, self.draft):
            engine.book = self.book
            engine.open(OpenCall("s", SAMPLING, len(PROMPT) + self.setting.length + 8))
        self.is_drafting = False
        self.asked_s: dict[int, float] = {}

    def after(self, delay_s: float, what: Callable[[], Event | None]) -> None:
        heapq.heappush(self.due, (self.now_s + delay_s, next(self.numbers), what))

    def perform(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            match action:
                case AttachTarget():
                    self.after(0.0, TargetAttached)
                    self.after(0.1, DraftAttached)
                case AskPlan():
                    self.after(0.0, self.plan)
                case AskDraft(call):
                    self.ask_draft(call)
                case AskVerify(call):
                    self.after(VERDICT_S if call.block or len(call.feed) < 2 else 0.2, self.judge(call))
                case Emit(_):
                    pass

    def plan(self) -> Planned:
        s = self.setting
        rule = StopRule(s.longest, entropy_ceiling=s.ceiling, row_len=V, want_runner_ups=s.for_rejection)
        return Planned(rule, BY_TOKEN, s.ahead, s.for_rejection)

    def ask_draft(self, call: DraftCall) -> None:
        self.draft.submit(replace(call, patience_s=self.setting.patience_s))
        if math.isfinite(self.setting.late_s) and call.rule.max_tokens:
            self.after(self.setting.late_s, lambda: DraftLate(call.epoch))
        if not self.is_drafting:
            self.is_drafting = True
            self.after(TOKEN_S if call.rule.max_tokens else 0.1, self.draft_on)

    def draft_on(self) -> Event | None:
        """One pass of the draft."""
        answers = self.draft.step()
        self.is_drafting = bool(self.draft.num_pending)
        if self.is_drafting:
            self.after(TOKEN_S, self.draft_on)
        for answer in answers:
            return DraftAnswered(answer)
        return None

    def judge(self, call: VerifyCall) -> Callable[[], Event]:
        """The pass; a block that came early shares it with a neighbour."""
        shares = self.now_s % 3 < 1.5

        def run() -> Event:
            self.target.submit(call)
            if call.block and self.setting.budget is not None:
                self.cut(call, shares)
            (verdict,) = self.target.step()
            if call.block:
                self.lens.append(len(call.block))
            self.prices = self.prices.after_verdict(self.price)
            return TargetAnswered(verdict)

        return run

    def cut(self, call: VerifyCall, shares: bool) -> None:
        assert self.setting.budget is not None
        blocks = [call.confidences, NEIGHBOUR] if shares else [call.confidences]
        refused = refused_by_budget(self.setting.budget, blocks)
        self.price = learned(self.price, refused)
        price = refused if self.setting.cut_by_the_pass else self.prices.current
        work = self.target._waiting["s"]
        assert isinstance(work, VerifyWork)
        length = judged_len(call.confidences, price)
        self.num_cut += length < len(call.block)
        work.cut_block(length)


def answer(book: Book, setting: Setting, make: type[World]) -> tuple[tuple[int, ...], World]:
    """The first tokens of one path's answer."""
    world = make(book, setting)
    request = GenerationRequest("s", PROMPT, SamplingParams(setting.length, 1.0))
    session, actions = begin(request, frozenset(), lambda ids: "")
    world.perform(actions)
    while len(session.committed) < len(PROMPT) + COMPARED:
        world.now_s, _, what = heapq.heappop(world.due)
        event = what()
        if event is not None:
            session, actions = step(session, event)
            world.perform(actions)
    world.num_ahead_used = session.counts.num_ahead_used
    return session.committed[len(PROMPT) :][:COMPARED], world


def target_distribution() -> dict[tuple[int, ...], float]:
    made = {}
    for text in itertools.product(range(V), repeat=COMPARED):
        chance, before = 1.0, list(PROMPT)
        for token in text:
            chance *= sampling_probs(masked(TARGET.logits(before), before, SAMPLING), SAMPLING)[token]
            before.append(token)
        made[text] = chance
    return made


def largest_error(setting: Setting, make: type[World] = World) -> tuple[float, list[World]]:
    """(largest difference of the joint distributions, all paths)."""
    book, worlds = Book(), []
    emitted = dict.fromkeys(itertools.product(range(V), repeat=COMPARED), 0.0)
    while True:
        text, world = answer(book, setting, make)
        emitted[text] += book.probability
        worlds.append(world)
        if not book.turn():
            break
    assert math.isclose(sum(emitted.values()), 1.0, abs_tol=1e-9)
    return max(abs(emitted[text] - chance) for text, chance in target_distribution().items()), worlds


ALL = {
    "one after the other": Setting(),
    "cut by price": Setting(budget=1),
    "a long block comes short": Setting(patience_s=2.5),
    "drafting ahead": Setting(ahead=True, longest=2),
    "drafting ahead, cut and short": Setting(ahead=True, longest=2, budget=1, patience_s=2.5),
    "prepared rejections": Setting(for_rejection=True, longest=2),
    "both": Setting(ahead=True, for_rejection=True, longest=2),
}


@pytest.mark.parametrize("name", ALL)
def test_the_distribution_is_the_targets(name: str):
    setting = ALL[name]
    error, worlds = largest_error(setting)
    assert error < 1e-9
    assert len({world.lens[0] for world in worlds if world.lens}) > 1, "lengths depend on what was drafted"
    assert any(world.num_cut for world in worlds) == (setting.budget is not None)
    assert any(world.num_ahead_used for world in worlds) == (setting.ahead or setting.for_rejection)


@dataclass
class BypassedWorld(World):
    """As in the service: calls may assume a verdict. After the first block the controller plans no further one.

    The block drafted ahead then comes before the verdict, assuming it, or after it: its length decides.
    """

    book: Book
    setting: Setting
    plain: AcceptanceRule = WHOLE_BLOCKS  # of plain rounds
    num_plans: int = 0
    idle_s: float = 0.0  # when the target is done with the calls before
    verdict: Verdict | None = None
    is_full: bool = False
    num_early: int = 0

    def plan(self) -> Planned:
        self.num_plans += 1
        if self.num_plans > 1:
            return Planned(StopRule(0), self.plain, asks_early=True)
        return replace(World.plan(self), accept=WHOLE_BLOCKS, asks_early=True)

    def perform(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            if not isinstance(action, AskVerify):
                World.perform(self, (action,))
                continue
            call = action.call
            begin_s = max(self.now_s, self.idle_s) if call.assuming else self.now_s
            self.idle_s = begin_s + (SLOW_VERDICT_S if call.block or len(call.feed) < 2 else 0.2)
            self.after(self.idle_s - self.now_s, lambda call=call: self.answer_to(call))

    def answer_to(self, call: VerifyCall) -> Event:
        assumed, verdict = call.assuming, self.verdict
        if assumed is not None:
            if verdict is None or not self.is_full or assumed.epoch != verdict.epoch:
                return TargetDeclined(call.epoch)
            if assumed.next_token not in (None, verdict.next_token):
                return TargetDeclined(call.epoch)
            self.num_early += bool(call.block)
            call = replace(call, feed=(verdict.next_token,))
        answered = self.judge(call)()
        assert isinstance(answered, TargetAnswered)
        self.verdict = answered.verdict
        self.is_full = self.verdict.num_accepted == len(call.block)
        return answered


@dataclass
class OtherRuleWhenLate(BypassedWorld):
    """A planted bug: blocks that come in a plain round are judged token by token."""

    plain: AcceptanceRule = BY_TOKEN


BYPASSED = Setting(ahead=True, longest=4, length=9, draft=TARGET.disturbed(1.2, seed=298))


def test_blocks_that_come_in_a_plain_round_are_judged_as_they_would_have_been_before():
    error, worlds = largest_error(BYPASSED, BypassedWorld)
    assert error < 1e-9
    assert any(world.num_ahead_used > world.num_early for world in worlds), "some come after the verdict"
    assert any(world.num_early for world in worlds), "and some before"


# --------------------------------------------------------------------------- planted bugs


def test_a_cut_by_who_shares_the_pass_is_noticed():
    """A block's length decides when it comes, that who shares its pass, and that what is judged of it."""
    assert largest_error(Setting(budget=1, cut_by_the_pass=True))[0] > 1e-3


def test_dropping_a_block_because_it_is_late_is_noticed():
    assert largest_error(Setting(late_s=2.5))[0] > 1e-3


def test_another_rule_for_blocks_that_come_late_is_noticed():
    assert largest_error(BYPASSED, OtherRuleWhenLate)[0] > 1e-3
