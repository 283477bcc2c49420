"""The pair of real size: fetched as a user would fetch it, and exact in mode exact."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adasd import LocalPair
from adasd.config import SpeculationConfig
from adasd.pairs.known import resolve_pair

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parents[2] / "models"
PROMPTS = (
    "Hello!",
    "What is the capital of Iceland?",
    "Write a short e-mail to my landlord about a broken window.",
    "Summarize this text in one sentence:\n\nTom and Ana met in Oslo. They talked about trains all evening.",
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> LocalPair:
    """Fetched into ADASD_CACHE if that is set, so that it can be kept; else into a folder of this run."""
    cache = os.environ.get("ADASD_CACHE") or str(tmp_path_factory.mktemp("cache"))
    target, draft = resolve_pair("smollm2", MODELS, {"ADASD_CACHE": cache}, lambda what, share: None)
    return LocalPair.load(str(target), str(draft), speculation=SpeculationConfig(bypass=False))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_exact_is_off_to_the_token(pair, prompt) -> None:
    off, exact = (pair.chat(prompt, mode=mode, max_tokens=40) for mode in ("off", "exact"))
    assert exact.token_ids == off.token_ids
    assert exact.text.strip()


def test_it_knows_a_capital(pair) -> None:
    assert "Paris" in pair.chat("What is the capital of France?", max_tokens=20).text


def test_some_of_the_drafts_tokens_are_accepted(pair) -> None:
    reports = [pair.chat(prompt, mode="exact", max_tokens=40).report for prompt in PROMPTS]
    assert sum(report.num_accepted_tokens for report in reports) > 0


def test_the_draft_in_the_repository_is_small() -> None:
    files = (MODELS / "smollm2-draft").iterdir()
    assert sum(file.stat().st_size for file in files) <= 24 * 2**20
