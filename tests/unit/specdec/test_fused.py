"""Triton kernels under Triton's interpreter (tests/conftest.py): verdicts and signals equal the slow twin's."""

import logging
import random
from dataclasses import replace

import pytest
import torch

from adasd.engine.sampling import verdicts
from adasd.rounds import AcceptanceRule, SamplingTransform
from adasd.specdec import verify
from adasd.specdec.distributions import Kind, TransformBatch, kind_of, transformed_probs
from adasd.specdec.divergence import entropy
from tests.unit.specdec.sessions import of_batch, random_session, random_transform, run, seeded, twin

fused = pytest.importorskip("adasd.specdec.fused.judge", reason="Triton has no package for this platform")
pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning:triton.runtime.interpreter"  # 0 / 0 in masked lanes
)


@pytest.fixture(autouse=True)
def short_reads(monkeypatch):
    """Several steps per row."""
    monkeypatch.setattr(fused, "LARGEST_BLOCK", 64)


def exact_session(rng, generator, vocab_size):
    session = random_session(rng, generator, vocab_size)
    return replace(session, rule=AcceptanceRule(want_distances=session.distributions is not None))


@pytest.mark.parametrize(("seed", "vocab_size", "num"), [(0, 23, 8), (2, 150, 3)])
def test_verdicts_equal_the_slow_twins(seed, vocab_size, num):
    rng, generator = random.Random(seed), seeded(seed)
    sessions = [exact_session(rng, generator, vocab_size) for _ in range(num)]
    judged = run(sessions, generator, fused.judge)
    sampled = [b for b, session in enumerate(sessions) if kind_of(session.transform) is Kind.SAMPLED]
    assert num < 8 or {kind_of(session.transform) for session in sessions} == set(Kind)
    for b, session in enumerate(sessions):
        got = of_batch(judged.judgement, b, session)
        expected = twin(judged, b, sampled.index(b) if b in sampled else None, session)
        assert (got.num_accepted, got.next_token) == (expected.num_accepted, expected.next_token), session
        assert got.exact_ok == expected.exact_ok, session
        if session.distributions is not None:
            assert got.distances == pytest.approx(expected.distances, abs=1e-3)


def test_signals_and_distributions_equal_torchs():
    vocab_size, num_rows = 150, 8
    rng, generator = random.Random(3), seeded(3)
    transforms = [random_transform(rng, 5, vocab_size) for _ in range(num_rows)]
    batch = TransformBatch.build(transforms, [9] * num_rows)
    logits_NV = 3 * torch.randn(num_rows, vocab_size, generator=generator)
    logits_NV[:, 7] = -torch.inf
    tokens_N = torch.randint(0, vocab_size, (num_rows,), generator=generator)
    distributions = fused.RowDistributions.of(logits_NV, batch, tokens_N)
    probs_NV = logits_NV.softmax(-1)
    assert distributions.choice_N.tolist() == logits_NV.argmax(-1).tolist()
    torch.testing.assert_close(distributions.largest_N + distributions.log_sum_N, logits_NV.logsumexp(-1))
    torch.testing.assert_close(distributions.entropy_N, entropy(probs_NV), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(distributions.collision_N, probs_NV.square().sum(-1), rtol=1e-4, atol=1e-6)
    drawn = [n for n, transform in enumerate(transforms) if not transform.greedy]
    sampling_NV = transformed_probs(logits_NV, batch)
    found_N = sampling_NV.gather(-1, tokens_N[:, None])[:, 0]
    torch.testing.assert_close(distributions.token_prob_N[drawn], found_N[drawn], rtol=1e-4, atol=1e-6)
    shaped_NV = (logits_NV - distributions.largest_N[:, None]) / batch.temperature_N[:, None]
    kept_NV = shaped_NV >= distributions.floor_N[:, None]
    assert torch.equal(kept_NV[drawn] & (shaped_NV[drawn] > -torch.inf), sampling_NV[drawn] > 0)


def test_equal_logits_go_to_the_lowest_token_and_equal_distributions_have_distance_0():
    logits_NV = torch.zeros(2, 100)
    batch = TransformBatch.build([SamplingTransform(temperature=0.0)] * 2, [0, 0])
    distributions = fused.RowDistributions.of(logits_NV, batch, torch.zeros(2, dtype=torch.long))
    assert distributions.choice_N.tolist() == [0, 0]
    ids = torch.arange(100).repeat(2, 1)
    assert distributions.distances([0, 1], ids, logits_NV.log_softmax(-1)).tolist() == pytest.approx(
        [0, 0], abs=1e-4
    )


def test_relaxation_and_whole_blocks_are_judged_by_torch(monkeypatch):
    called = []
    monkeypatch.setattr(verify, "judge", lambda *given: called.append(given))
    rng, generator = random.Random(1), seeded(1)
    session = next(s for s in iter(lambda: random_session(rng, generator), None) if not s.rule.is_exact)
    run([session], generator, fused.judge)
    assert len(called) == 1


# --------------------------------------------------------------------------- chosen at the start


def test_on_a_cpu_torch_judges():
    assert verdicts.choose_judge(torch.device("cpu"), 50) is verify.judge
    assert (verdicts.backend_of(verify.judge), verdicts.backend_of(fused.judge)) == ("torch", "triton")


def test_kernels_that_do_not_run_are_not_used_and_the_log_says_why(caplog, monkeypatch):
    def breaks(*_):
        raise RuntimeError("no compiler was found")

    card = torch.device("cuda", 0)
    monkeypatch.setattr(verdicts, "_try", breaks)
    assert verdicts.choose_judge(card, 50) is verify.judge
    assert "no compiler was found" in caplog.text
    monkeypatch.setattr(verdicts, "_try", lambda *_: None)
    with caplog.at_level(logging.INFO):
        assert verdicts.choose_judge(card, 50) is fused.judge
    assert "verdicts by Triton kernels" in caplog.text


def test_what_is_tried_at_the_start_runs():
    verdicts._try(fused.judge, torch.device("cpu"), 50)
