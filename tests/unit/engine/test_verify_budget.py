"""The verification budget: which drafted tokens are judged, by which price, and that answers do not change."""

import pytest

from adasd.engine.engine import TorchEngine
from adasd.rounds import DraftCall, OpenCall, StopRule, Verdict, VerifyCall
from adasd.specdec.verification_budget import SessionPrices
from adasd.testing.loops import GREEDY
from tests.unit.engine.models import engine, generate


def verdicts(e: TorchEngine, *calls: VerifyCall, price: float | None = None) -> dict[str, Verdict]:
    """``price``: that the sessions' blocks are cut by; None: the engine's own."""
    for call in calls:
        e.open(OpenCall(call.session, GREEDY, 60))
        if price is not None:
            e._slots.get(call.session).prices = SessionPrices(price, price)
        e.submit(call)
    answers = {}
    while len(answers) < len(calls):
        answers |= {answer.session: answer for answer in e.step()}
    e.check_integrity()
    for session in answers:
        assert e.cached_len(session) == answers[session].base_len + answers[session].num_accepted
        e.close(session)
    return answers


def right_block(session: str, prompt: tuple[int, ...], confidences: tuple[float, ...]) -> VerifyCall:
    """A block that the target accepts in full."""
    block = tuple(generate("llama", prompt, len(confidences)))
    return VerifyCall(session, 0, 0, prompt, block, confidences=confidences)


PROMPTS = {"sure": (1, 2, 3), "unsure": (4, 5)}


def blocks() -> list[VerifyCall]:
    """Worth .9 .81 .729 and .8 .08 .072."""
    return [
        right_block("sure", PROMPTS["sure"], (0.9, 0.9, 0.9)),
        right_block("unsure", PROMPTS["unsure"], (0.8, 0.1, 0.9)),
    ]


def test_the_budget_goes_to_the_likeliest_and_cut_blocks_go_on_right():
    made = verdicts(engine("llama", verify_budget=3), *blocks(), price=0.75)
    assert {name: one.block_len for name, one in made.items()} == {"sure": 2, "unsure": 1}
    for name, verdict in made.items():
        text = generate("llama", PROMPTS[name], 3)
        assert verdict.num_accepted == verdict.block_len
        assert verdict.next_token == text[verdict.num_accepted]


def test_a_block_is_cut_alike_whoever_shares_its_pass():
    alone = verdicts(engine("llama", verify_budget=3), blocks()[1], price=0.75)["unsure"]
    assert (
        alone.block_len
        == verdicts(engine("llama", verify_budget=3), *blocks(), price=0.75)["unsure"].block_len
    )


def test_passes_beyond_the_budget_raise_the_price_and_those_within_lower_it():
    e = engine("llama", verify_budget=3)
    assert all(one.block_len is None for one in verdicts(e, *blocks()).values())  # nothing learned before
    for _ in range(60):
        verdicts(e, *blocks())
    assert sum(3 if one.block_len is None else one.block_len for one in verdicts(e, *blocks()).values()) <= 4
    for _ in range(60):
        last = verdicts(e, blocks()[0])
    assert last["sure"].block_len is None


def test_a_learned_price_waits_until_blocks_that_may_be_under_way_are_judged():
    e, text, known, lens = engine("llama", verify_budget=1), generate("llama", (1, 2), 12), (1, 2), []
    e.open(OpenCall("a", GREEDY, 60))
    for epoch in range(3):
        at, keep = len(known) - 2, len(known) - 1 if epoch else 0
        block = tuple(text[at : at + 2])
        e.submit(VerifyCall("a", epoch, keep, known[keep:], block, confidences=(0.5, 0.01)))
        (verdict,) = e.step()
        lens.append(verdict.block_len)
        known = (*known, *text[at : at + verdict.num_accepted + 1])
    e.close("a")
    # the first pass refuses a worth of .005; the second block may have been drafted during it
    assert lens == [None, None, None]
    assert e._scheduler.price == pytest.approx(0.005 * (1 - 0.8**3))


@pytest.mark.parametrize("budget", [None, 6, 99])
def test_blocks_within_the_budget_are_whole(budget: int | None):
    e = engine("llama", verify_budget=budget)
    for _ in range(3):
        made = verdicts(e, right_block("a", (1, 2), (0.5,) * 3), right_block("b", (3, 4), (0.1,) * 3))
        assert all(one.block_len is None and one.num_accepted == 3 for one in made.values())


def test_a_block_without_confidences_is_never_cut():
    call = VerifyCall("a", 0, 0, (1, 2), tuple(generate("llama", (1, 2), 3)))
    assert verdicts(engine("llama", verify_budget=1), call, price=0.9)["a"].num_accepted == 3


def test_a_price_follows_the_measured_times():
    e = engine("llama", verify_budget=0)
    for size in (1, 2, 4, 8):
        e._scheduler.ran(size, 1000.0 * size)  # every token takes as long as a pass
    verdicts(e, right_block("a", (1, 2), (0.5, 0.5)))
    assert e._scheduler.price > 0.05


def test_a_draft_tells_its_confidence():
    e = engine("llama")
    e.open(OpenCall("d", GREEDY, 50))
    e.submit(DraftCall("d", 0, 0, (1, 2, 3), StopRule(3)))
    answers = []
    while not answers:
        answers = e.step()
    assert len(answers[0].confidences) == 3
    assert all(0 < confidence <= 1 for confidence in answers[0].confidences)
    e.close("d")
