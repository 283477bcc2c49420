"""Penalties against transformers and against the slow twin, also after roll-backs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from adasd.rounds import SamplingTransform
from adasd.specdec.penalties import TokenCounts, has_penalties, penalise
from adasd.specdec.verify_reference import masked

V = 9
tokens = st.lists(st.integers(-1, V + 2), max_size=8)  # some without logits: a draft knows fewer ids
transforms = st.builds(
    SamplingTransform,
    presence_penalty=st.sampled_from([0.0, 0.5, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.25, -0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.5, 0.7]),
    answer_from=st.integers(0, 6),
)


def penalised(
    counts: TokenCounts,
    transform: SamplingTransform,
    text: list[int],
    ahead: list[int],
    logits_JV: torch.Tensor,
):
    ours_JV = logits_JV.clone()
    penalise(ours_JV, counts.ahead(ahead, len(text), len(logits_JV)), transform)
    return ours_JV


@settings(max_examples=200)
@given(transforms, st.lists(st.tuples(tokens, st.integers(0, 20)), max_size=5), tokens, st.data())
def test_after_any_path_the_penalties_are_those_of_the_text(transform, path, ahead, data):
    counts, text = TokenCounts(transform, V), []
    for more, keep in path:
        counts.extend(more, len(text))
        text += more
        gone = text[keep:]
        del text[keep:]
        counts.cut(gone, len(text))
    num_rows = data.draw(st.integers(1, len(ahead) + 1))
    logits_JV = torch.randn(num_rows, V, generator=torch.Generator().manual_seed(len(text)))
    ours_JV = penalised(counts, transform, text, ahead, logits_JV)
    for row in range(num_rows):
        before = [*text, *ahead[: len(ahead) - num_rows + 1 + row]]
        known = [token if 0 <= token < V else V for token in before]
        twin = masked(logits_JV[row].tolist(), known, transform)
        assert ours_JV[row].tolist() == pytest.approx(twin, abs=1e-5)


def test_repetition_is_transformers_repetition():
    transform, text = SamplingTransform(repetition_penalty=1.4, answer_from=2), [3, 3, 5, 1]
    logits = torch.randn(1, V, generator=torch.Generator().manual_seed(1))
    counts = TokenCounts(transform, V)
    counts.extend(text, 0)
    theirs = RepetitionPenaltyLogitsProcessor(1.4)(torch.tensor([text]), logits.clone())
    assert torch.equal(penalised(counts, transform, text, [], logits), theirs)


def test_frequency_counts_and_presence_does_not_and_neither_sees_the_prompt():
    transform = SamplingTransform(presence_penalty=1.0, frequency_penalty=0.5, answer_from=2)
    counts = TokenCounts(transform, V)
    counts.extend([0, 0, 1, 2, 2, 2], 0)
    ours = penalised(counts, transform, [0] * 6, [], torch.zeros(1, V))
    assert ours[0, :4].tolist() == [0.0, -1.5, -2.5, 0.0]


def test_many_different_tokens_find_their_place():
    transform = SamplingTransform(frequency_penalty=1.0)
    counts = TokenCounts(transform, 1000)
    counts.extend(list(range(500)) * 2, 0)
    ours = penalised(counts, transform, [0] * 1000, [], torch.zeros(1, 1000))
    assert ours[0].tolist() == [-2.0] * 500 + [0.0] * 500


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (SamplingTransform(), False),
        (SamplingTransform(presence_penalty=-0.1), True),
        (SamplingTransform(frequency_penalty=0.1), True),
        (SamplingTransform(repetition_penalty=1.1), True),
    ],
)
def test_only_penalties_need_counts(transform, expected):
    assert has_penalties(transform) is expected
