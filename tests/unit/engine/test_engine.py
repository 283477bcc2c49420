"""The engine as a port: contract, batching, fairness, failure."""

import copy
import random

import pytest
import torch

from adasd.config import EngineConfig
from adasd.engine.engine import TorchEngine
from adasd.engine.forward.protocol import ForwardOver
from adasd.errors import ConfigError, DeviceFailure
from adasd.rounds import (
    CallFailed,
    DraftBlock,
    DraftCall,
    OpenCall,
    SamplingTransform,
    StopRule,
    Verdict,
    VerifyCall,
)
from adasd.testing.clock import FakeClock
from adasd.testing.contracts import CLAIMS
from adasd.testing.loops import GREEDY, plain, run_until_idle, speculative, verify
from tests.unit.engine.models import engine, generate, original, prompts


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
@pytest.mark.parametrize(("fast", "cache"), [(False, "auto"), (True, "auto"), (True, "paged")])
def test_keeps_the_contract(claim, fast, cache):
    e = engine("llama", fast=fast, num_slots=4, cache=cache)
    claim(e)
    e.check_integrity()
    assert (e.num_free_slots, e.num_pending) == (4, 0)


@pytest.mark.parametrize("seed", range(4))
def test_sessions_joining_and_leaving_at_random_answer_as_if_alone(seed):
    """Plain and speculative rounds, random drafts, roll-backs and closings; every answer equals ``generate``'s."""
    chance = random.Random(seed)
    e = engine("llama", num_slots=5, prefill_chunk=33)
    texts = {
        i: prompt for i, prompt in enumerate(prompts(*[chance.randint(1, 70) for _ in range(12)], seed=seed))
    }
    truth = {i: generate("llama", prompt, 20) for i, prompt in texts.items()}
    todo, running, finished = list(texts), {}, {}
    while todo or running:
        while todo and e.num_free_slots and chance.random() < 0.5:
            i = todo.pop()
            e.open(OpenCall(str(i), GREEDY, 120))
            running[i] = []
            e.submit(VerifyCall(str(i), 0, 0, texts[i]))
        for answer in e.step():
            i = int(answer.session)
            if isinstance(answer, Verdict):
                running[i] += [*truth[i][len(running[i]) :][: answer.num_accepted], answer.next_token]
                assert running[i] == truth[i][: len(running[i])]
            if len(running[i]) > 12 or chance.random() < 0.03:
                finished[i] = running.pop(i)
                e.close(str(i))
                continue
            tokens = [*texts[i], *running[i]]
            keep = min(chance.randint(0, len(tokens) - 1), e.cached_len(str(i)))
            if chance.random() < 0.7:
                keep = min(len(tokens) - 1, e.cached_len(str(i)))
            if chance.random() < 0.2:
                e.submit(DraftCall(str(i), 0, keep, tuple(tokens[keep:]), StopRule(chance.randint(0, 4))))
            else:
                right = truth[i][len(running[i]) :][: chance.randint(0, 3)]
                block = [*right, *[t for t in (chance.randrange(97),) if chance.random() < 0.5]]
                if len(block) > len(right) and block[-1] == truth[i][len(running[i]) + len(right)]:
                    block.pop()
                e.submit(VerifyCall(str(i), 0, keep, tuple(tokens[keep:]), tuple(block)))
        e.check_integrity()
    assert e.num_free_slots == e.num_slots
    assert len(finished) == 12


@pytest.mark.parametrize(("fast", "num_passes"), [(True, 5), (None, 14)])
def test_a_long_prompt_does_not_hold_up_a_running_session(fast, num_passes):
    (prompt,) = prompts(130)
    e = engine("llama", fast=fast, prefill_chunk=32)
    for session in ("long", "short"):
        e.open(OpenCall(session, GREEDY, 150))
    verify(e, VerifyCall("short", 0, 0, (1, 2, 3)))
    e.submit(VerifyCall("long", 0, 0, prompt))
    seen = []
    while "long" not in seen:
        if "short" not in seen[-1:]:
            assert not seen, "the short session is answered in every step"
        e.submit(VerifyCall("short", 0, e.cached_len("short"), (4,)))
        seen += [answer.session for answer in e.step()]
    assert (
        seen.count("short") == num_passes
    )  # the prompt in chunks of 32, or of as many tokens as run beside it, at least 8
    e.close("long")
    e.close("short")


@pytest.mark.parametrize(
    ("fast", "held"), [(True, [32, 32 + 42 + 2 * 3, 80 + 32]), (None, [8, 8 + 42, 50 + 8])]
)
def test_while_others_run_a_prompt_is_fed_in_smaller_pieces(fast, held):
    (prompt,) = prompts(130)
    e = engine("llama", fast=fast, prefill_chunk=100)
    for session, room in (("long", 150), ("a", 150), ("b", 150)):
        e.open(OpenCall(session, GREEDY, room))
    for session, text in (("a", (1, 2)), ("b", (3,))):
        verify(e, VerifyCall(session, 0, 0, text))
    e.submit(VerifyCall("long", 0, 0, prompt))
    seen = []
    for block in ((), (5,) * 20, ()):  # the others feed 2, 42 and 2 tokens
        for session in "ab":
            e.submit(VerifyCall(session, 1, e.cached_len(session), (4,), block))
        assert len(e.step()) == 2
        seen.append(e.cached_len("long"))
    assert seen == held, "about what takes as long, at least 32 (kernels: 8)"
    (verdict,) = run_until_idle(e)
    assert verdict.next_token == generate("llama", prompt, 1)[0]
    for session in ("long", "a", "b"):
        e.close(session)


def test_prompts_take_turns():
    e = engine("llama", prefill_chunk=32)
    for i, prompt in enumerate(prompts(100, 100, 100)):
        e.open(OpenCall(str(i), GREEDY, 120))
        e.submit(VerifyCall(str(i), 0, 0, prompt))
    for _ in range(3):
        e.step()
    assert [e.cached_len(str(i)) for i in range(3)] == [32, 32, 32]
    assert {answer.session for answer in run_until_idle(e)} == {"0", "1", "2"}
    for i in range(3):
        e.close(str(i))


def test_drafting_sessions_leave_the_batch_one_by_one():
    e = engine("llama", fast=True)
    for i, num in enumerate((1, 3, 5)):
        e.open(OpenCall(str(i), GREEDY, 50))
        e.submit(DraftCall(str(i), 0, 0, (1, 2), StopRule(num)))
    steps = []
    while e.num_pending:
        steps.append([answer.session for answer in e.step()])
    assert steps == [["0"], [], ["1"], [], ["2"]]
    for i in range(3):
        e.close(str(i))


class BrokenFor:
    """A forward pass that fails if a given token is in the batch, as if memory ran out."""

    def __init__(self, forward, token):
        self.__dict__.update(forward=forward, token=token, num_passes=0)

    def __getattr__(self, name):
        return getattr(self.forward, name)

    def __call__(self, batch, cache):
        self.num_passes += 1
        if self.token in batch.ids_T.tolist():
            raise torch.OutOfMemoryError("out of memory")
        return self.forward(batch, cache)


def test_a_pass_that_fails_costs_only_the_call_that_breaks_it():
    e = engine("llama")
    e.runner.forward = BrokenFor(e.forward, 96)
    for i in range(5):
        e.open(OpenCall(str(i), GREEDY, 50))
        verify(e, VerifyCall(str(i), 0, 0, (1, 2, i)))
    for i in range(5):
        e.submit(VerifyCall(str(i), 1, 3, (96 if i == 3 else 10,)))
    answers = {answer.session: answer for answer in e.step()}
    failed = answers.pop("3")
    assert isinstance(failed, CallFailed)
    assert isinstance(failed.error, DeviceFailure)
    assert "out of memory" in str(failed.error)
    assert {type(answer) for answer in answers.values()} == {Verdict}
    for i, answer in answers.items():
        assert answer.next_token == generate("llama", (1, 2, int(i), 10), 1)[0]
    assert e.cached_len("3") == 3
    assert verify(e, VerifyCall("3", 2, 3, (10,))).next_token == generate("llama", (1, 2, 3, 10), 1)[0]
    e.check_integrity()
    for i in range(5):
        e.close(str(i))


@pytest.mark.parametrize("fast", [None, True])
def test_weights_that_are_not_finite_fail_the_call_and_do_not_infect_the_slot(fast):
    e = engine("llama", fast=fast)
    embedding = e.forward._embedding
    spoilt = embedding[50].clone()
    embedding[50] = float("nan")
    e.open(OpenCall("s", GREEDY, 50))
    e.submit(VerifyCall("s", 0, 0, (1, 50, 2)))
    (failed,) = e.step()
    assert isinstance(failed, CallFailed)
    assert "not finite" in str(failed.error)
    embedding[50] = spoilt
    e.close("s")
    sessions = (
        "a",
        "b",
    )  # "a" takes that slot and is shorter than "b", so the old tokens after it must be masked
    for session, prompt in zip(sessions, ((1,), (1, 2, 3, 4)), strict=True):
        e.open(OpenCall(session, GREEDY, 50))
        e.submit(VerifyCall(session, 0, 0, prompt[:-1] or prompt))
    run_until_idle(e)
    for session in sessions:
        e.submit(VerifyCall(session, 1, e.cached_len(session), (4,)))
    answers = {answer.session: answer for answer in run_until_idle(e)}
    assert answers["a"].next_token == generate("llama", (1, 4), 1)[0]
    for session in sessions:
        e.close(session)


def test_times_are_measured_on_the_clock_that_was_handed_in():
    clock = FakeClock()
    e = TorchEngine.from_model(
        copy.deepcopy(original("llama")), EngineConfig("tiny", num_slots=2, prefill_chunk=32), clock=clock
    )
    inner = e.forward

    class Slow(ForwardOver):
        def __call__(self, batch, cache):
            clock.advance(0.1)
            return inner(batch, cache)

    e.runner.forward = Slow(inner, "slow")
    e.open(OpenCall("s", GREEDY, 100))
    e.submit(VerifyCall("s", 0, 0, prompts(70)[0]))
    clock.advance(1.0)
    verdict = None
    while verdict is None:
        answers = e.step()
        verdict = answers[0] if answers else None
    assert verdict.queue_ms == pytest.approx(1000.0)
    assert verdict.compute_ms == pytest.approx(300.0)
    e.close("s")


def test_unseeded_sampling_differs_from_engine_to_engine_but_not_under_one_generator_seed():
    config = EngineConfig("tiny", num_slots=2)
    transform, prompt = SamplingTransform(temperature=2.0), (1, 2, 3)

    def answer(seed):
        return plain(
            TorchEngine.from_model(copy.deepcopy(original("llama")), config, seed=seed), prompt, 20, transform
        )

    assert answer(1) == answer(1)
    assert answer(None) != answer(
        None
    )  # 20 draws from flat probabilities: equal by chance in fewer than 1 of 1e9


def test_warm_up_leaves_every_slot_free():
    for settings in ({}, {"max_context": 4}, {"num_slots": 1, "max_context": 1}):
        e = engine("llama", **settings)
        e.warm_up()
        e.check_integrity()
        assert e.num_free_slots == e.num_slots


@pytest.mark.parametrize(("fast", "shared"), [(True, (2, 8)), (None, (1, 5))])
def test_a_draft_and_a_verdict_can_share_a_step(fast, shared):
    e = engine("llama", fast=fast)  # the kernels draft in their own pass
    for session in ("d", "v"):
        e.open(OpenCall(session, GREEDY, 50))
    e.submit(DraftCall("d", 0, 0, (1, 2, 3), StopRule(1)))
    e.submit(VerifyCall("v", 0, 0, (1, 2, 3), (5, 6)))
    answers = e.step()
    assert {type(answer) for answer in answers} == {DraftBlock, Verdict}
    tokens = {a.tokens[0] if isinstance(a, DraftBlock) else a.next_token for a in answers}
    assert tokens == {generate("llama", (1, 2, 3), 1)[0]}
    verdict = next(answer for answer in answers if isinstance(answer, Verdict))
    assert (verdict.batch_size, verdict.batch_tokens) == shared
    for session in ("d", "v"):
        e.close(session)


@pytest.mark.parametrize("fast", [False, True])
def test_16_bit_weights_draft_as_they_verify(fast):
    """Rounding depends on the shape of a pass, so a few tokens may flip; the distribution is the same."""
    model = copy.deepcopy(original("qwen3")).to(torch.bfloat16)
    e = TorchEngine.from_model(model, EngineConfig("tiny", num_slots=4), fast=fast)
    _, accepted = speculative(e, e, prompts(12)[0], 60, StopRule(4))
    assert sum(accepted) >= 0.8 * 4 * len(accepted)


def test_a_cache_that_no_memory_holds_is_refused_with_its_size():
    with pytest.raises(ConfigError, match=r"1000000000000 slots of 160 tokens takes .* GiB"):
        engine("llama", num_slots=10**12)
