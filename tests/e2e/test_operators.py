"""What operators see of a real service: one scrape with every replica's metrics, request ids, no local paths."""

from __future__ import annotations

from collections import Counter

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.server import ask, wait_for


def scrape(client: httpx.Client) -> Counter[tuple[str, str]]:
    """Values summed by (name, role)."""
    response = client.get("/metrics")
    assert response.status_code == 200
    sums: Counter[tuple[str, str]] = Counter()
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            sums[sample.name, sample.labels["role"]] += sample.value
    return sums


def test_figures_add_up_over_all_replicas(client: httpx.Client):
    before = scrape(client)
    answers = [ask(client, max_tokens=24, speculation={"mode": "exact"}) for _ in range(3)]
    wait_for(lambda: scrape(client)["vllm:num_requests_running", "orchestrator"] == 0, 60.0)
    after = scrape(client)
    grown = after - before
    for name, field in (("prompt", "prompt_tokens"), ("generation", "completion_tokens")):
        total = sum(answer["usage"][field] for answer in answers)
        assert grown[f"vllm:{name}_tokens_total", "orchestrator"] == total
    spec = [answer["metrics"]["speculative_decoding"] for answer in answers]
    for name in ("num_draft_tokens", "num_accepted_draft_tokens"):
        series = f"vllm:spec_decode_{name.replace('accepted_draft', 'accepted')}_total"
        assert grown[series, "orchestrator"] == sum(one[name] for one in spec if one)
    assert all(value >= 0 for value in (after - before).values())

    def workers_have_reported() -> bool:
        seen = scrape(client)
        told = seen["adasd_worker_tokens_total", "target"] - before["adasd_worker_tokens_total", "target"]
        return told > 0 and seen["adasd_worker_slots", "draft"] > 0

    wait_for(workers_have_reported, 60.0)


def test_a_request_id_is_answered_once_and_names_the_answer(client: httpx.Client):
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    response = client.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine-1"})
    assert response.headers.get_list("x-request-id") == ["mine-1"]
    assert response.json()["id"] == "chatcmpl-mine-1"


def test_models_are_named_without_their_folders(client: httpx.Client):
    (model,) = client.get("/v1/models").json()["data"]
    assert "/" not in model["adasd"]["target"] + model["adasd"]["draft"]


def test_tokens_come_and_go(client: httpx.Client):
    tokens = client.post("/tokenize", json={"prompt": "Tell me a story."}).json()["tokens"]
    assert "Tell me a story." in client.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
