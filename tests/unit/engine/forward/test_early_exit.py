"""A model that drafts with its first layers: its verdicts are those of the model alone."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from scipy.stats import chi2

from adasd.config import EngineConfig, SpeculationConfig
from adasd.engine.engine import TorchEngine
from adasd.errors import ConfigError, StaleCache
from adasd.local import LocalPair
from adasd.requests import Mode, SamplingParams, SpeculationOptions
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
from adasd.testing.loops import GREEDY, draft, plain, run_until_idle, verify
from tests.unit.engine.models import CONFIGS, VOCAB_SIZE, original, prompts

DEEP = {"llama": 5, "qwen3": 4, "qwen2": 3}


def deep(name: str = "llama", seed: int = 0) -> torch.nn.Module:
    """A random model with several layers; the later ones change little."""
    config = CONFIGS[name]()
    config.num_hidden_layers = DEEP[name]
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1] * DEEP[name]
    kind = type(original(name))  # made first: it sets the seed, too
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():
        for layer in model.model.layers[1:]:
            layer.self_attn.o_proj.weight.mul_(0.2)
            layer.mlp.down_proj.weight.mul_(0.2)
    return model


def engine(name: str = "llama", *, early: bool = True, **settings: object) -> TorchEngine:
    config = EngineConfig(
        name, dtype="float32", device="cpu", num_slots=4, max_context=160, early_exit=early, **settings
    )
    return TorchEngine.from_model(deep(name), config, seed=3)


def pair(target: TorchEngine) -> LocalPair:
    config = SpeculationConfig(bypass=False)
    return LocalPair(target, None, lambda ids: "." * len(ids), frozenset(), config)


OFF, SELF = SpeculationOptions(Mode.OFF), SpeculationOptions(Mode.EXACT, draft="self", drafting="static")


@pytest.mark.parametrize("name", DEEP)
def test_greedy_answers_are_the_models_own(name):
    own, drafting = pair(engine(name, early=False)), pair(engine(name))
    num_accepted = num_drafted = 0
    for prompt in prompts(5, 40, 90, seed=2):
        answer = drafting.generate(prompt, max_tokens=50, speculation=SELF)
        assert answer.token_ids == own.generate(prompt, max_tokens=50, speculation=OFF).token_ids
        assert answer.report.drafts_used == ("self",)
        num_accepted += answer.report.num_accepted_tokens
        num_drafted += answer.report.num_draft_tokens
    assert 0 < num_accepted < num_drafted, "both have to happen for this to show anything"
    drafting.target.check_integrity()
    assert drafting.target.num_free_slots == 4


def test_a_block_tells_the_second_choices_of_the_first_layers():
    made, (prompt,) = engine(), prompts(9)
    made.open(OpenCall("s", GREEDY, 40))
    verdict = verify(made, VerifyCall("s", 0, 0, prompt))
    block = draft(made, DraftCall("s", 1, 9, (verdict.next_token,), StopRule(4, want_runner_ups=True)))
    assert len(block.runner_ups) == len(block.tokens) > 0
    assert all(a != b for a, b in zip(block.tokens, block.runner_ups, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_seeded_answers_are_those_of_mode_off(seed):
    made = pair(engine())
    sampling = SamplingParams(40, temperature=0.7, top_p=0.95, seed=seed)
    for prompt in prompts(8, 30, seed=seed):
        off = made.generate(prompt, sampling=sampling, speculation=OFF)
        assert made.generate(prompt, sampling=sampling, speculation=SELF).token_ids == off.token_ids


def test_without_a_seed_the_first_tokens_follow_the_models_distribution():
    """Pearson's test at the 1e-4 point over pairs of tokens, with a small top_k."""
    made, prompt, num = pair(engine()), prompts(6, seed=1)[0], 800
    sampling = SamplingParams(4, temperature=1.0, top_k=3)
    counts: Counter[tuple[int, ...]] = Counter()
    kinds = 0
    for _ in range(num):
        answer = made.generate(prompt, sampling=sampling, speculation=SELF)
        counts[answer.token_ids[1:3]] += 1
        kinds += answer.report.num_accepted_tokens
    assert kinds > num / 4
    expected = distribution_of_the_second_and_third(prompt, top_k=3)
    assert set(counts) <= set(expected)
    cells: dict[tuple[int, ...], tuple[float, float]] = {}
    for tokens, prob in expected.items():
        cell = tokens if prob * num >= 5 else ()
        seen, due = cells.get(cell, (0.0, 0.0))
        cells[cell] = seen + counts[tokens], due + prob * num
    statistic = sum((seen - due) ** 2 / due for seen, due in cells.values())
    assert statistic < chi2.isf(1e-4, len(cells) - 1)


@torch.inference_mode()
def distribution_of_the_second_and_third(prompt: tuple[int, ...], top_k: int) -> dict[tuple[int, ...], float]:
    model = deep()

    def cut(text: tuple[int, ...]) -> dict[int, float]:
        best = model(torch.tensor([text])).logits[0, -1].double().topk(top_k)
        return dict(zip(best.indices.tolist(), best.values.softmax(-1).tolist(), strict=True))

    expected: Counter[tuple[int, ...]] = Counter()
    for first, p1 in cut(prompt).items():
        for second, p2 in cut((*prompt, first)).items():
            for third, p3 in cut((*prompt, first, second)).items():
                expected[second, third] += p1 * p2 * p3
    return dict(expected)


def test_what_was_drafted_leaves_no_trace_in_the_cache():
    """The same verdicts with and without random drafting in between."""
    (prompt,) = prompts(20, seed=5)
    e, truth = engine(), plain(engine(early=False), prompt, 30)
    e.open(OpenCall("s", GREEDY, 100))
    text, epoch = list(prompt), itertools.count(1)
    cached = 0
    for wanted in truth:
        verdict = verify(e, VerifyCall("s", next(epoch), cached, tuple(text[cached:])))
        assert verdict.next_token == wanted
        cached, text = len(text), [*text, verdict.next_token]
        for length in (1, 7):
            before = e.cached_len("s")
            drafted = draft(e, DraftCall("s", next(epoch), 0, tuple(text), StopRule(length)))
            assert drafted.base_len == len(text)
            assert e.cached_len("s") == before
            e.check_integrity()


def test_sessions_draft_and_verify_in_one_step_as_if_alone():
    e = engine()
    texts = dict(enumerate(prompts(9, 25, 60, 14, seed=7)))
    truth = {i: plain(engine(early=False), text, 12) for i, text in texts.items()}
    for i, text in texts.items():
        e.open(OpenCall(str(i), GREEDY, 120))
        e.submit(VerifyCall(str(i), 0, 0, text))
    answers: dict[int, list[int]] = {i: [] for i in texts}
    epoch = itertools.count(1)
    while e.num_pending:
        for answer in e.step():
            assert not isinstance(answer, CallFailed), answer.error
            i = int(answer.session)
            text = (*texts[i], *answers[i])
            if isinstance(answer, DraftBlock):
                cached = e.cached_len(str(i))
                e.submit(VerifyCall(str(i), next(epoch), cached, text[cached:], answer.tokens))
            elif isinstance(answer, Verdict):
                new = [*truth[i][len(answers[i]) :][: answer.num_accepted], answer.next_token]
                answers[i] += new
                assert answers[i] == truth[i][: len(answers[i])] or len(answers[i]) > len(truth[i])
                if len(answers[i]) < len(truth[i]):
                    e.submit(DraftCall(str(i), next(epoch), 0, (*text, *new), StopRule(4)))
    assert all(len(answer) >= 12 for answer in answers.values())


def test_a_slot_that_holds_less_than_the_caller_believes_says_so():
    e = engine()
    e.open(OpenCall("s", SamplingTransform(temperature=0.0), 50))
    with pytest.raises(StaleCache):
        e.submit(DraftCall("s", 1, 3, (1, 2), StopRule(2)))


def test_what_cannot_draft_for_itself_is_refused():
    config = EngineConfig("gpt2", early_exit=True, dtype="float32", device="cpu", max_context=100)
    with pytest.raises(ConfigError, match="cannot draft for itself"):
        TorchEngine.from_model(original("gpt2"), config)
    with pytest.raises(ConfigError, match="takes no draft model"):
        LocalPair(engine(), engine(early=False), str, frozenset())  # type: ignore[arg-type]
    assert VOCAB_SIZE > 3


@pytest.mark.parametrize("cache", ["contiguous", "paged"])
@pytest.mark.parametrize("ends", [True, False], ids=["its client leaves", "it goes on"])
def test_what_only_the_first_layers_have_seen_is_no_prefix_for_others(cache: str, ends: bool):
    """A draft of the first layers alone, caught between two passes."""
    made, (prompt,) = engine(cache=cache), prompts(40)
    for _ in range(60):  # exits that have always been right draft long blocks
        exits = made.forward._exits
        made.forward._exits = exits.learn([[True]] * len(exits.seen), [[0.9]] * len(exits.seen))
    made.open(OpenCall("s", GREEDY, 100))
    made.submit(DraftCall("s", 0, 0, prompt, StopRule(8)))
    made.step()
    assert made.num_pending == 1
    if ends:
        made.close("s")
    made.open(OpenCall("other", GREEDY, 100))
    made.submit(VerifyCall("other", 0, 0, (*prompt, 3)))
    (verdict,) = [answer for answer in run_until_idle(made) if answer.session == "other"]
    assert verdict.cached_tokens == 0
    assert [verdict.next_token] == plain(engine(early=False), (*prompt, 3), 1)
    made.check_integrity()
