"""The verification budget: whose drafted tokens are checked, how many, and that answers do not change."""

import pytest

from adasd.rounds import DraftCall, OpenCall, StopRule, Verdict, VerifyCall
from adasd.testing.loops import GREEDY
from tests.unit.engine.models import engine, generate


def verdicts(budget: int | None, *calls: VerifyCall) -> dict[str, Verdict]:
    e = engine("llama", verify_budget=budget)
    for call in calls:
        e.open(OpenCall(call.session, GREEDY, 60))
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


def test_the_budget_goes_to_the_likeliest_and_cut_blocks_go_on_right():
    prompts = {"sure": (1, 2, 3), "unsure": (4, 5)}
    calls = [
        right_block("sure", prompts["sure"], (0.9, 0.9, 0.9)),
        right_block("unsure", prompts["unsure"], (0.8, 0.1, 0.9)),
    ]
    made = verdicts(3, *calls)
    assert {name: one.block_len for name, one in made.items()} == {"sure": 2, "unsure": 1}
    for name, verdict in made.items():
        text = generate("llama", prompts[name], 3)
        assert verdict.num_accepted == verdict.block_len
        assert verdict.next_token == text[verdict.num_accepted]


@pytest.mark.parametrize("budget", [None, 6, 99])
def test_blocks_within_the_budget_are_whole(budget: int | None):
    made = verdicts(budget, right_block("a", (1, 2), (0.5,) * 3), right_block("b", (3, 4), (0.1,) * 3))
    assert all(one.block_len is None and one.num_accepted == 3 for one in made.values())


def test_a_block_without_confidences_is_never_cut():
    call = VerifyCall("a", 0, 0, (1, 2), tuple(generate("llama", (1, 2), 3)))
    assert verdicts(1, call)["a"].num_accepted == 3


def test_a_chosen_budget_follows_the_measured_times():
    e = engine("llama", verify_budget=0)
    e.open(OpenCall("a", GREEDY, 60))
    for size in (1, 2, 4, 8):
        e._scheduler.ran(size, 1000.0 * size)  # every token takes as long as a pass
    e.submit(right_block("a", (1, 2), (0.5, 0.5)))
    (verdict,) = e.step()
    assert (verdict.block_len, verdict.num_accepted) == (0, 0)
    assert verdict.next_token == generate("llama", (1, 2), 1)[0]
    e.close("a")


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
