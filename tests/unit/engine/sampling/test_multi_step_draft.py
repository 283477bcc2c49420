"""Multi-step drafts give the same blocks as drafting step by step, and let other calls in."""

import math

import pytest
import torch

from adasd.rounds import CallFailed, ChanceTable, DraftCall, OpenCall, SamplingTransform, StopRule, VerifyCall
from adasd.testing.loops import GREEDY, draft, run_until_idle
from tests.unit.engine.models import VOCAB_SIZE, engine, prompts

CEILING, FLOOR = 2.0, 0.3
TABLE = ChanceTable((0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.9, 0.8, 0.6), (0.95,) * 7 + (0.8, 0.6), 0.3)


def drafted(e, texts, rule, transform=GREEDY):
    """Blocks of all sessions, drafted together."""
    for i, text in enumerate(texts):
        e.open(OpenCall(str(i), transform, 150))
        e.submit(DraftCall(str(i), 0, 0, text, rule))
    answers = {answer.session: answer for answer in run_until_idle(e)}
    e.check_integrity()
    return [answers[str(i)] for i in range(len(texts))]


def step_by_step(*args, **settings):
    """An engine without multi-step drafts."""
    made = engine(*args, **settings)
    made.forward.multi_step_draft = None
    return made


@pytest.mark.parametrize(
    "rule",
    [
        StopRule(1),
        StopRule(40, want_runner_ups=True),
        StopRule(30, entropy_ceiling=CEILING),
        StopRule(30, confidence_floor=FLOOR, want_runner_ups=True),
        StopRule(30, table=TABLE),
        StopRule(30, entropy_ceiling=CEILING, row_len=7, want_runner_ups=True),
    ],
)
@pytest.mark.parametrize("lengths", [(3,), (1, 30, 9, 55)])
def test_blocks_are_those_of_single_steps(rule, lengths):
    texts = prompts(*lengths)
    quick, held = engine("qwen3"), step_by_step("qwen3")
    found = drafted(quick, texts, rule)
    expected = drafted(held, texts, rule)
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.tokens == other.tokens
        assert one.runner_ups == other.runner_ups
        assert len(one.runner_ups) == (len(one.tokens) if rule.want_runner_ups else 0)
        assert one.entropies == pytest.approx(other.entropies, abs=1e-4)
        assert quick.cached_len(str(i)) == held.cached_len(str(i)) == one.base_len + len(one.tokens) - 1
        if rule.row_len:
            assert one.distributions.ids.shape == (len(one.tokens), rule.row_len)
            assert one.distributions.ids.tolist() == other.distributions.ids.tolist()
            assert one.distributions.logprobs == pytest.approx(other.distributions.logprobs, abs=1e-4)
    if rule.table:
        assert any(1 < len(one.tokens) < rule.max_tokens for one in found)
    if rule.entropy_ceiling == CEILING:
        assert all(h <= CEILING for one in found for h in one.entropies[:-1])
        assert any(one.entropies[-1] > CEILING for one in found)


def test_sessions_that_draft_together_send_distributions_of_their_own_lengths():
    texts, lens = prompts(9, 20, 4), (5, 0, 3)
    e, passes = engine("qwen3"), 0
    for i, (text, row_len) in enumerate(zip(texts, lens, strict=True)):
        e.open(OpenCall(str(i), GREEDY, 80))
        e.submit(DraftCall(str(i), 0, 0, text, StopRule(8, row_len=row_len)))
    answers = {}
    while e.num_pending:
        passes += 1
        answers |= {answer.session: answer for answer in e.step()}
    assert passes == 1, "prompts and all eight tokens at once"
    for i, (text, row_len) in enumerate(zip(texts, lens, strict=True)):
        (alone,) = drafted(step_by_step("qwen3"), [text], StopRule(8, row_len=row_len))
        assert answers[str(i)].tokens == alone.tokens
        if row_len:
            assert answers[str(i)].distributions.ids.tolist() == alone.distributions.ids.tolist()
        else:
            assert answers[str(i)].distributions is None


def test_entropy_and_largest_probability_are_those_of_the_softmax(monkeypatch):
    seen = {}
    forward = engine("llama").forward
    e = engine("llama")
    monkeypatch.setattr(type(forward), "draft", keeping(type(forward).draft, seen))
    (block,) = drafted(e, prompts(20), StopRule(5))
    e.forward.multi_step_draft = None
    e.close("0")
    e.open(OpenCall("0", GREEDY, 150))
    logits = []
    honest = type(forward).__call__
    monkeypatch.setattr(type(forward), "__call__", lambda *args: logits.append(honest(*args)) or logits[-1])
    drafted_slowly = draft(e, DraftCall("0", 0, 0, prompts(20)[0], StopRule(5)))
    assert drafted_slowly.tokens == block.tokens
    probs = torch.softmax(torch.cat([rows[-1:] for rows in logits]).double(), -1)
    entropies = torch.special.entr(probs).sum(-1).tolist()
    assert block.entropies == pytest.approx(entropies, abs=1e-5)
    assert [one.max_prob for one in seen["proposals"]] == pytest.approx(probs.amax(-1).tolist(), abs=1e-6)


def keeping(function, seen):
    def kept(*args):
        passes = function(*args)
        seen["proposals"] = [proposals[0] for proposals in passes]
        return passes

    return kept


def test_a_burst_ends_with_the_first_session_that_is_to_stop():
    e = engine("llama")
    for i, num in enumerate((2, 5, 40)):
        e.open(OpenCall(str(i), GREEDY, 80))
        e.submit(DraftCall(str(i), 0, 0, (1, 2), StopRule(num)))
    steps = []
    while e.num_pending:
        steps.append([answer.session for answer in e.step()])
    assert steps == [["0"], ["1"], [], [], ["2"]], "35 tokens are left then, and a burst has at most 16"


def test_whoever_else_has_something_to_do_waits_for_four_tokens_only():
    e = engine("llama")
    for session in ("drafts", "decodes"):
        e.open(OpenCall(session, GREEDY, 80))
    e.submit(DraftCall("drafts", 0, 0, (1, 2), StopRule(9)))
    e.submit(VerifyCall("decodes", 0, 0, (3, 4)))
    (verdict,) = e.step()
    assert verdict.session == "decodes"
    assert e.cached_len("drafts") == 5, "four tokens drafted, the last of them not fed"
    (block,) = run_until_idle(e)
    assert len(block.tokens) == 9


def test_logit_options_do_not_change_a_multi_step_draft():
    texts = prompts(12)
    (free,) = drafted(engine("llama"), texts, StopRule(6))
    ends = (free.tokens[0],)
    shaped = [
        SamplingTransform(temperature=0.0, logit_bias=((free.tokens[0], -100.0),)),
        SamplingTransform(temperature=0.0, eos_ids=ends, eos_from=15),
        SamplingTransform(temperature=0.0, presence_penalty=2.0),
        SamplingTransform(temperature=0.9, seed=5),
    ]
    for transform in shaped:
        found = drafted(engine("llama"), texts, StopRule(6), transform)
        slowly = drafted(step_by_step("llama"), texts, StopRule(6), transform)
        assert found[0].tokens == slowly[0].tokens


def test_tokens_from_the_limit_on_are_never_drafted():
    e = engine("llama")
    (free,) = drafted(e, prompts(12), StopRule(30))
    e.close("0")
    e.runner.vocab_size = max(free.tokens)
    (limited,) = drafted(e, prompts(12), StopRule(30))
    assert max(limited.tokens) < max(free.tokens)


def test_logits_that_are_not_finite_fail_that_session_alone():
    e = engine("llama")
    (free,) = drafted(e, prompts(12), StopRule(4))
    e.close("0")
    with torch.inference_mode():
        e.forward._embedding[free.tokens[1]] = math.nan
    e.open(OpenCall("broken", GREEDY, 60))
    e.open(OpenCall("whole", GREEDY, 60))
    unused = next(t for t in range(VOCAB_SIZE) if t != free.tokens[1])
    e.submit(DraftCall("broken", 0, 0, prompts(12)[0], StopRule(4)))
    e.submit(DraftCall("whole", 0, 0, (unused,), StopRule(1)))
    answers = {}
    while e.num_pending:
        answers |= {answer.session: answer for answer in e.step()}
    assert isinstance(answers["broken"], CallFailed)
    assert "not finite" in str(answers["broken"].error)
    assert e.cached_len("broken") == 0
    assert len(answers["whole"].tokens) == 1
    e.check_integrity()
