"""The shadow audit in the real service: it finds exactly the relaxed tokens that the answers report."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.server import ask, wait_for

pytestmark = [pytest.mark.clients, pytest.mark.cluster]

PROMPTS = (
    "Tell a short story set in the harbor. It needs Ana, Tom and a map.",
    "A short story, please: Kai.",
)


def audited(client: httpx.Client) -> dict[str, float]:
    """Numbers of audited tokens of seeded answers, and of those that differ."""
    found = {"tokens": 0.0, "tokens_different": 0.0}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            name = sample.name.removeprefix("adasd_audit_").removesuffix("_total")
            if sample.labels.get("law") == "seeded" and name in found:
                found[name] += sample.value
    return found


def test_seeded_answers_differ_exactly_where_they_were_relaxed(client: httpx.Client):
    before = audited(client)
    options = {"temperature": 0.8, "speculation": {"mode": "adaptive", "acceptance": "typical"}}
    answers = [
        ask(client, prompt, max_tokens=100, seed=seed, **options) for seed in range(3) for prompt in PROMPTS
    ]
    total = sum(answer["usage"]["completion_tokens"] for answer in answers)
    relaxed = sum(answer["metrics"]["adasd"]["tokens"]["relaxed"] for answer in answers)
    assert relaxed > 0
    wait_for(lambda: audited(client)["tokens"] - before["tokens"] >= total, 60.0)
    after = audited(client)
    assert after["tokens"] - before["tokens"] == total
    assert after["tokens_different"] - before["tokens_different"] == relaxed
