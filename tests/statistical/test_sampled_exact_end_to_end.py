"""The distribution of whole answers, by runner, session, controller and two torch engines, many at a time.

A tiny random target over a small vocabulary; the draft is the target with noise on its weights. The joint
distribution of the first three tokens (the prefill's and two from judged blocks) is computed from the target by
``transformers`` and compared with counts by Pearson's chi-squared test at the upper 1e-4 point: correct counts
fail for 1 seed in 10,000, and seeds are fixed. Two tests show that the comparison can fail.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from adasd.config import EngineConfig, SpeculationConfig
from adasd.engine.engine import TorchEngine
from adasd.local import LocalPair
from adasd.requests import Mode, SamplingParams, SpeculationOptions
from adasd.results import EmittedToken, TokenKind
from adasd.session.opening import transform_of
from adasd.specdec.penalties import TokenCounts
from adasd.specdec.verify_reference import masked
from load_tests.peers.in_process_batch import BatchedAnswer, InProcessBatch

V = 5
PROMPT = (1, 3, 0)
NUM_TOKENS = 4  # the fourth leaves room for a block of two after the prefill's token
NUM_SESSIONS = 2000
NUM_SLOTS = 500

Tokens = tuple[int, ...]


def target_model() -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=0.6,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def noisy(exact: LlamaForCausalLM, share: float) -> LlamaForCausalLM:
    """The same model with noise on every weight, in standard deviations of its matrix."""
    generator = torch.Generator().manual_seed(2)
    for weight in exact.parameters():
        if weight.dim() > 1:
            weight.data += share * weight.data.std() * torch.randn(weight.shape, generator=generator)
    return exact


def engine(loaded: LlamaForCausalLM, seed: int) -> TorchEngine:
    return TorchEngine.from_model(loaded, EngineConfig("tiny", num_slots=NUM_SLOTS), seed=seed)


@pytest.fixture(scope="module")
def engines() -> tuple[TorchEngine, TorchEngine]:
    """Target and draft."""
    return engine(target_model(), seed=3), engine(noisy(target_model(), 0.5), seed=4)


# --------------------------------------------------------------------------- many sessions at once


def answers_of(
    engines: tuple[TorchEngine, TorchEngine],
    options: SpeculationOptions,
    sampling: SamplingParams,
    seeds: Iterable[int | None],
) -> list[list[EmittedToken]]:
    """One answer per seed; as many at a time as there are slots."""
    target, draft = engines
    pair = LocalPair(target, draft, lambda ids: "." * len(ids), frozenset(), SpeculationConfig(bypass=False))
    batch, answers = InProcessBatch(pair, options), list[BatchedAnswer]()
    for seed in seeds:
        while not (target.num_free_slots and draft.num_free_slots):
            batch.turn()
        answers.append(batch.start(PROMPT, replace(sampling, seed=seed)))
    batch.finish()
    for one in engines:
        assert one.num_free_slots == one.num_slots
        one.check_integrity()
    return [answer.tokens for answer in answers]


# --------------------------------------------------------------------------- distributions and counts


def warpers(sampling: SamplingParams) -> LogitsProcessorList:
    """The request's transform as ``transformers`` processors."""
    return LogitsProcessorList(
        [
            TemperatureLogitsWarper(sampling.temperature),
            *([TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []),
            *([TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []),
            *([MinPLogitsWarper(sampling.min_p)] if sampling.min_p else []),
        ]
    )


def penalised(logits: Tensor, text: Tokens, sampling: SamplingParams) -> Tensor:
    """Logits [V] after the penalties for ``text``, by the slow twin."""
    transform = transform_of(sampling, len(PROMPT), frozenset())
    return torch.tensor(masked(logits.tolist(), text, transform), dtype=torch.float64)


@torch.inference_mode()
def distribution_of_three_tokens(sampling: SamplingParams) -> dict[Tokens, float]:
    """Probability of every triple after the prompt, by the target alone."""
    target, transform = target_model(), warpers(sampling)
    pairs = list(itertools.product(range(V), repeat=2))
    logits = target(torch.tensor([[*PROMPT, *pair] for pair in pairs])).logits[:, len(PROMPT) - 1 :]
    for row, pair in enumerate(pairs):
        for place in range(3):
            logits[row, place] = penalised(logits[row, place], (*PROMPT, *pair[:place]), sampling)
    probs = torch.stack([transform(None, logits[:, place]) for place in range(3)], dim=1).double().softmax(-1)
    return {
        (*pair, last): float(probs[row, 0, pair[0]] * probs[row, 1, pair[1]] * probs[row, 2, last])
        for row, pair in enumerate(pairs)
        for last in range(V)
    }


def rejects(answers: list[list[EmittedToken]], distribution: dict[Tokens, float]) -> bool:
    """Pearson's test at the upper 1e-4 point; triples expected fewer than five times share one cell."""
    counts = Counter(tuple(token.id for token in answer[:3]) for answer in answers)
    if any(distribution[triple] == 0.0 for triple in counts):
        return True
    cells: dict[Tokens, tuple[float, float]] = {}
    for triple, prob in distribution.items():
        expected = prob * len(answers)
        cell = triple if expected >= 5 else ()
        seen, due = cells.get(cell, (0.0, 0.0))
        cells[cell] = seen + counts[triple], due + expected
    statistic = sum((seen - due) ** 2 / due for seen, due in cells.values() if due > 0)
    return bool(statistic > chi2.isf(1e-4, len(cells) - 1))


def kinds_of_block_tokens(answers: list[list[EmittedToken]]) -> Counter[TokenKind]:
    """The provenance of the second and the third token."""
    return Counter(token.kind for answer in answers for token in answer[1:3])


# --------------------------------------------------------------------------- claims

SAMPLING = SamplingParams(NUM_TOKENS, temperature=1.0)
PENALISED = replace(SAMPLING, presence_penalty=0.6, frequency_penalty=0.5, repetition_penalty=1.4)
EXACT = SpeculationOptions(Mode.EXACT, drafting="static")
CASES = {
    "plain sampling": (SAMPLING, EXACT),
    "top_p, min_p, blocks of one": (
        replace(SAMPLING, top_p=0.9, min_p=0.05),
        replace(EXACT, max_draft_tokens=1),
    ),
    "cooler, top_k, adasd": (replace(SAMPLING, temperature=0.7, top_k=3), replace(EXACT, drafting="adasd")),
    "penalties": (PENALISED, EXACT),
    "penalties, cooler, blocks of one": (
        replace(PENALISED, temperature=0.8, top_p=0.9),
        replace(EXACT, max_draft_tokens=1),
    ),
    "adaptive that may relax nothing": (
        replace(SAMPLING, temperature=1.3),
        SpeculationOptions(Mode.ADAPTIVE, drafting="adaedl", max_relaxed_fraction=0.0),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_first_tokens_follow_the_target(engines: tuple[TorchEngine, TorchEngine], name: str):
    sampling, options = CASES[name]
    answers = answers_of(engines, options, sampling, [None] * NUM_SESSIONS)
    kinds = kinds_of_block_tokens(answers)
    assert kinds[TokenKind.EXACT] > NUM_SESSIONS / 10, "drafted tokens must have been judged"
    assert kinds[TokenKind.CORRECTION] > NUM_SESSIONS / 10, "and rejected"
    assert not rejects(answers, distribution_of_three_tokens(sampling))


def test_over_many_seeds_the_first_tokens_follow_the_target(engines: tuple[TorchEngine, TorchEngine]):
    answers = answers_of(engines, EXACT, SAMPLING, range(NUM_SESSIONS))
    kinds = kinds_of_block_tokens(answers)
    assert kinds[TokenKind.EXACT] > NUM_SESSIONS / 10
    assert kinds[TokenKind.CORRECTION] > NUM_SESSIONS / 10
    assert not rejects(answers, distribution_of_three_tokens(SAMPLING))


def test_a_slightly_warmer_distribution_is_noticed(engines: tuple[TorchEngine, TorchEngine]):
    answers = answers_of(engines, EXACT, replace(SAMPLING, temperature=1.2), [None] * NUM_SESSIONS)
    assert rejects(answers, distribution_of_three_tokens(SAMPLING))


def test_penalties_that_do_not_see_the_block_are_noticed(
    engines: tuple[TorchEngine, TorchEngine], monkeypatch: pytest.MonkeyPatch
):
    ahead = TokenCounts.ahead
    blind = lambda self, tokens, at, rows: ahead(self, tokens[: len(tokens) - rows + 1], at, rows)  # noqa: E731
    monkeypatch.setattr(TokenCounts, "ahead", blind)
    answers = answers_of(engines, EXACT, PENALISED, [None] * NUM_SESSIONS)
    assert rejects(answers, distribution_of_three_tokens(PENALISED))


def test_relaxation_changes_the_distribution(engines: tuple[TorchEngine, TorchEngine]):
    options = SpeculationOptions(
        Mode.ADAPTIVE, drafting="static", acceptance="fsd:max_divergence=0.3", max_relaxed_fraction=1.0
    )
    answers = answers_of(engines, options, SAMPLING, [None] * NUM_SESSIONS)
    assert kinds_of_block_tokens(answers)[TokenKind.RELAXED] > NUM_SESSIONS / 10
    assert rejects(answers, distribution_of_three_tokens(SAMPLING))
