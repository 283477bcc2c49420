"""Mode exact, proved without chance: every branch of whole answers is walked with its exact probability.

The session, its runner, the controller and its policies, the accept rules and the slow twin run as they are; only
their draws are replaced by a book that tries every outcome in turn. The joint distribution of four tokens over
a vocabulary of three is compared with the target's, for every drafting policy, with blocks cut by entropy and by
confidence, token by token and by whole blocks. Planted bugs make it fail.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from adasd.config import SpeculationConfig
from adasd.engine.work import DraftWork, VerifyWork
from adasd.local import LocalPair
from adasd.methods.registry import drafting_methods
from adasd.requests import Mode, SamplingParams, SpeculationOptions
from adasd.rounds import (
    DraftBlock,
    DraftCall,
    DraftDistributions,
    RoundCompleted,
    SamplingTransform,
    Verdict,
    VerifyCall,
)
from adasd.specdec import verify_reference
from adasd.specdec.verification_budget import judged_len
from adasd.specdec.verify_reference import masked, sampling_probs
from adasd.testing.fake_engine import FakeEngine
from adasd.testing.table_model import TableModel

V, LENGTH = 3, 4
PROMPT = (1, 2)
TARGET = TableModel.random(V, seed=5, sharpness=0.8)
DRAFT = TARGET.disturbed(0.7, seed=6)
METHODS = [
    *(method.name for method in drafting_methods()),
    "adasd:drops_last=true",
    "assisted:schedule=constant",
    "confidence:schedule=dynamic",
    "on-the-fly:variant=cached",
    "on-the-fly:variant=fsm",
]


class Book:
    """Replays the choices on its page, then takes first choices; multiplies the probabilities along the path."""

    def __init__(self) -> None:
        self.page: list[tuple[int, int]] = []  # (choice, number of choices), in order
        self.at, self.probability = 0, 1.0

    def choose(self, chances: Sequence[float]) -> int:
        """An index into ``chances``; never one with chance 0."""
        possible = [i for i, chance in enumerate(chances) if chance > 0]
        if self.at == len(self.page):
            self.page.append((0, len(possible)))
        choice, num = self.page[self.at]
        assert num == len(possible), "the program is not a function of its draws"
        self.at += 1
        self.probability *= chances[possible[choice]] / sum(chances)
        return possible[choice]

    def turn(self) -> bool:
        """Moves to the next path; returns False after the last."""
        self.at, self.probability = 0, 1.0
        while self.page:
            choice, num = self.page.pop()
            if choice + 1 < num:
                self.page.append((choice + 1, num))
                return True
        return False


@dataclass
class BookSource:
    """``RandomSource`` of one block: earlier answers confine each token's uniform number to an interval."""

    book: Book
    known: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)

    def below(self, i: int, threshold: float) -> bool:
        return self._below(("accept", i), threshold)

    def relax_below(self, i: int, threshold: float) -> bool:
        return self._below(("relax", i), threshold)

    def pick(self, weights: Sequence[float]) -> int:
        return self.book.choose(weights)

    def _below(self, which: tuple[str, int], threshold: float) -> bool:
        low, high = self.known.get(which, (0.0, 1.0))
        at = min(max(threshold, low), high)
        is_below = self.book.choose([at - low, high - at]) == 0
        self.known[which] = (low, at) if is_below else (at, high)
        return is_below


class BookEngine(FakeEngine):
    """The fake engine, with every draw from a book."""

    book: Book
    price: float | None = None  # of the verification budget
    score: Callable[[VerifyCall], Sequence[float]] = staticmethod(lambda call: call.confidences)

    def submit(self, call: DraftCall | VerifyCall) -> None:
        super().submit(call)
        if self.price is not None and isinstance(call, VerifyCall) and call.block:
            work = self._waiting[call.session]
            assert isinstance(work, VerifyWork)
            work.cut_block(judged_len(self.score(call), self.price))

    def _random_source(self, num_drafted: int) -> BookSource:
        return BookSource(self.book)

    def _draw(self, ids: Sequence[int], probs: Sequence[float]) -> int:
        return ids[self.book.choose(probs)]


def paths(
    make: Callable[[Book], LocalPair], options: SpeculationOptions, transform: dict[str, Any]
) -> Iterator[Any]:
    """(answer, probability) of every path."""
    book = Book()
    while True:
        pair = make(book)
        answer = pair.generate(PROMPT, sampling=SamplingParams(LENGTH, **transform), speculation=options)
        yield answer, book.probability
        if not book.turn():
            return


def pair_with(
    book: Book,
    config: SpeculationConfig,
    taught: Sequence[RoundCompleted],
    options: SpeculationOptions,
    price: float | None = None,
) -> LocalPair:
    """A fresh pair whose process has learned from ``taught``."""
    target, draft = BookEngine(TARGET, clock=lambda: 0.0), BookEngine(DRAFT, clock=lambda: 0.0)
    target.book = draft.book = book
    target.price = price
    # Policies that measure time decide by the taught rounds, the same on every path: the clock stands.
    pair = LocalPair(
        target, draft, decode=lambda ids: "", eos_ids=frozenset(), speculation=config, clock=lambda: 0.0
    )
    teacher = pair.controller.session(pair.controller.effective(options), SamplingTransform())
    for done in taught:
        teacher.learn(done)
    return pair


def lesson(num_accepted: int, entropies: Sequence[float], verify_ms: float = 1.0) -> RoundCompleted:
    """One past round, with times for the policies that measure time."""
    block = tuple(range(len(entropies)))
    drafted = DraftBlock("s", 0, 0, block, tuple(entropies), compute_ms=0.1 * len(entropies))
    verdict = Verdict("s", 0, 0, num_accepted, 1, compute_ms=verify_ms)
    return RoundCompleted(drafted, verdict, 0.1 * len(entropies), verify_ms)


PASTS = {
    "no past": [],
    "low ceiling": [lesson(1, (0.1, 0.6, 0.9))] * 9,  # entropies of three words lie below 1.1 nats
    "high ceiling": [lesson(1, (0.1, 0.95, 0.9)), lesson(3, (0.9, 0.9, 0.9))] * 5,
}


def target_distribution(transform: dict[str, Any]) -> dict[tuple[int, ...], float]:
    """The target's distribution of four tokens."""
    made, whole = {}, SamplingTransform(answer_from=len(PROMPT), **transform)
    for answer in itertools.product(range(V), repeat=LENGTH):
        chance, text = 1.0, list(PROMPT)
        for token in answer:
            chance *= sampling_probs(masked(TARGET.logits(text), text, whole), whole)[token]
            text.append(token)
        made[answer] = chance
    return made


def largest_error(
    drafting: str,
    past: str = "no past",
    acceptance: str | None = None,
    block: int = 2,
    transform: dict[str, Any] | None = None,
    price: float | None = None,
    **config: Any,
) -> tuple[float, set[tuple[int, ...]]]:
    """(largest difference of the joint distributions, the block lengths of every path)."""
    transform = transform or {}
    options = SpeculationOptions(Mode.EXACT, drafting, acceptance, max_draft_tokens=block)
    settings = SpeculationConfig(bypass=False, draft_top_k=V, **config)
    emitted: dict[tuple[int, ...], float] = dict.fromkeys(itertools.product(range(V), repeat=LENGTH), 0.0)
    shapes = set()
    for answer, probability in paths(
        lambda book: pair_with(book, settings, PASTS[past], options, price), options, transform
    ):
        emitted[answer.token_ids] += probability
        shapes.add(answer.report.drafted_per_round)
    assert math.isclose(sum(emitted.values()), 1.0, abs_tol=1e-9)
    expected = target_distribution(transform)
    return max(abs(emitted[answer] - expected[answer]) for answer in expected), shapes


@pytest.mark.parametrize("drafting", METHODS)
@pytest.mark.parametrize("past", PASTS)
def test_the_distribution_of_whole_answers_is_the_targets_under_every_policy(drafting: str, past: str):
    error, _ = largest_error(drafting, past)
    assert error < 1e-9


@pytest.mark.parametrize("drafting", ["static", "adasd", "adaedl", "on-the-fly:variant=fsm"])
def test_so_it_is_by_whole_blocks(drafting: str):
    error, _ = largest_error(drafting, "low ceiling", "block")
    assert error < 1e-9


def test_blocks_are_cut_by_entropy_and_by_nothing_else_here():
    _, shapes = largest_error("adasd", "low ceiling")
    assert {lengths[0] for lengths in shapes if lengths} == {1, 2}


@pytest.mark.parametrize(
    "transform", [{"temperature": 0.7, "top_k": 2}, {"top_p": 0.8}, {"temperature": 1.4}]
)
@pytest.mark.parametrize("acceptance", ["token", "block"])
def test_whatever_the_sampling(transform: dict[str, Any], acceptance: str):
    error, _ = largest_error("adasd", "low ceiling", acceptance, transform=transform)
    assert error < 1e-9


PENALTIES = {"presence_penalty": 0.5, "frequency_penalty": 0.7, "repetition_penalty": 1.4}


@pytest.mark.parametrize("price", [None, 0.5])
@pytest.mark.parametrize("acceptance", ["token", "block"])
def test_so_it_is_where_every_token_changes_the_next_distributions(acceptance: str, price: float | None):
    error, _ = largest_error("adasd", "low ceiling", acceptance, transform=PENALTIES, price=price)
    assert error < 1e-9
    without = target_distribution({})
    assert max(abs(without[text] - chance) for text, chance in target_distribution(PENALTIES).items()) > 0.01


@pytest.mark.parametrize("price", [0.25, 0.35, 0.5])
@pytest.mark.parametrize("acceptance", ["token", "block"])
@pytest.mark.parametrize("drafting", ["static", "adasd"])
def test_so_it_is_where_a_pass_judges_only_the_likeliest_tokens(drafting: str, acceptance: str, price: float):
    error, shapes = largest_error(drafting, "low ceiling", acceptance, price=price)
    assert error < 1e-9
    assert any(1 in lengths for lengths in shapes)  # blocks of two were cut


# --------------------------------------------------------------------------- planted bugs


def test_the_published_score_of_a_cut_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """TETRIS ranks by q(x): an unlikely token is cut and so escapes its rejection."""

    def by_token(call: VerifyCall) -> list[float]:
        assert call.distributions is not None
        return [
            math.exp(logprobs[ids.tolist().index(token)])
            for token, ids, logprobs in zip(
                call.block, call.distributions.ids, call.distributions.logprobs, strict=True
            )
        ]

    monkeypatch.setattr(BookEngine, "score", staticmethod(by_token))
    assert largest_error("static", price=0.35)[0] > 1e-3


def test_a_residual_that_forgets_the_draft_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verify_reference, "excess_of", lambda weight, place: place.target)
    assert largest_error("static")[0] > 1e-3


def test_a_ratio_upside_down_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verify_reference, "ratio", lambda target, draft: draft / target if target else 1.0)
    assert largest_error("static")[0] > 1e-3


def test_a_block_weight_that_is_not_capped_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verify_reference, "min", lambda *values: values[-1], raising=False)
    assert largest_error("static", acceptance="block")[0] > 1e-3


def test_dropping_a_token_for_what_it_is_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """A block may end because of the *distribution*, not because the drawn token is unlikely: that is a bias."""
    honest = DraftWork.answer

    def answer(self: DraftWork) -> DraftBlock:
        made = honest(self)
        if made.distributions is None or not made.tokens:
            return made
        last = made.distributions.ids[-1].tolist().index(made.tokens[-1])
        if math.exp(made.distributions.logprobs[-1][last]) >= 0.3:
            return made
        rows = (
            DraftDistributions(made.distributions.ids[:-1], made.distributions.logprobs[:-1])
            if len(made.tokens) > 1
            else None
        )
        return replace(made, tokens=made.tokens[:-1], entropies=made.entropies[:-1], distributions=rows)

    monkeypatch.setattr(DraftWork, "answer", answer)
    assert largest_error("static")[0] > 1e-3
