"""Look-ups under rejection sampling: proposals are point masses, and answers follow the target's distribution.

As in test_sampled_exact_end_to_end: joint probabilities of three tokens by ``transformers``, Pearson's test at the
upper 1e-4 point. One test shows that a draft which reports wrong probabilities is noticed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from adasd.config import EngineConfig, SpeculationConfig
from adasd.drafters import lookup
from adasd.engine.engine import TorchEngine
from adasd.local import LocalPair
from adasd.requests import Mode, SamplingParams, SpeculationOptions
from adasd.results import EmittedToken, TokenKind
from adasd.rounds import DraftDistributions
from tests.statistical.test_sampled_exact_end_to_end import (
    Tokens,
    V,
    kinds_of_block_tokens,
    rejects,
    target_model,
    warpers,
)

PROMPT = (0, 1, 2, 0, 2, 3, 0, 3, 4, 0, 4, 1, 0, 0, 3, 0)  # for every next token x, (0, x) occurs earlier
NUM = 800
SAMPLING = SamplingParams(4, temperature=3.0)  # warm: a looked-up token has a fair chance of acceptance
SAMPLINGS = {"warm": SAMPLING, "warm, top_k": SamplingParams(4, temperature=3.0, top_k=4)}


def answers(source: str, sampling: SamplingParams) -> list[list[EmittedToken]]:
    model = target_model()
    model.config.max_position_embeddings = 32
    target = TorchEngine.from_model(model, EngineConfig("tiny", num_slots=2), seed=5)
    config = SpeculationConfig(bypass=False, recent_tokens=400)
    pair = LocalPair(target, None, lambda ids: "." * len(ids), frozenset(), config)
    options = SpeculationOptions(Mode.EXACT, drafting="static", draft=source)
    return [list(pair.generate(PROMPT, sampling=sampling, speculation=options).tokens) for _ in range(NUM)]


@torch.inference_mode()
def distribution(sampling: SamplingParams) -> dict[Tokens, float]:
    """Probability of every triple after the prompt, by the target alone."""
    model, transform = target_model(), warpers(sampling)
    model.config.max_position_embeddings = 32
    pairs = list(itertools.product(range(V), repeat=2))
    logits = model(torch.tensor([[*PROMPT, *pair] for pair in pairs])).logits[:, len(PROMPT) - 1 :]
    probs = torch.stack([transform(None, logits[:, place]) for place in range(3)], dim=1).double().softmax(-1)
    return {
        (*pair, last): float(probs[row, 0, pair[0]] * probs[row, 1, pair[1]] * probs[row, 2, last])
        for row, pair in enumerate(pairs)
        for last in range(V)
    }


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("source", ["ngram", "suffix"])
def test_the_first_tokens_follow_the_target(source: str, name: str):
    made = answers(source, SAMPLINGS[name])
    kinds = kinds_of_block_tokens(made)
    assert kinds[TokenKind.EXACT] > NUM / 10, "drafted tokens must have been judged"
    assert kinds[TokenKind.CORRECTION] > NUM / 10, "and rejected"
    assert not rejects(made, distribution(SAMPLINGS[name]))


def test_wrong_draft_probabilities_are_noticed(monkeypatch: pytest.MonkeyPatch):
    def half_sure(tokens: Sequence[int]) -> DraftDistributions:
        ids = np.asarray([[token, (token + 1) % V] for token in tokens], np.int32)
        return DraftDistributions(ids, np.full(ids.shape, np.log(0.5), np.float32))

    monkeypatch.setattr(lookup, "point_masses", half_sure)
    assert rejects(answers("ngram", SAMPLING), distribution(SAMPLING))
