"""Log-probabilities are those of the raw logits, checked in double precision."""

import pytest
import torch

from adasd.specdec.logprobs import token_logprobs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_top", [0, 1, 3, 99])
def test_log_probabilities_are_those_of_the_softmax(dtype, num_top):
    logits = (10 * torch.randn(4, 7, generator=torch.Generator().manual_seed(1))).to(dtype)
    expected = logits.double().log_softmax(-1)
    tokens = [0, 6, 3, 3]
    for row, (token, said) in enumerate(zip(tokens, token_logprobs(logits, tokens, num_top), strict=True)):
        assert said.logprob == pytest.approx(float(expected[row, token]), abs=1e-5)
        best = expected[row].sort(descending=True)
        assert [logprob for _, logprob in said.top] == pytest.approx(best.values[:num_top].tolist(), abs=1e-5)
        assert all(
            logprob == pytest.approx(float(expected[row, token]), abs=1e-5) for token, logprob in said.top
        )
        assert len({token for token, _ in said.top}) == min(num_top, 7)


def test_of_no_tokens_there_is_nothing_to_say():
    assert token_logprobs(torch.zeros(0, 5), [], 2) == ()
