"""Reads /metrics as ``vllm bench serve`` does. vLLM itself needs CUDA wheels and is not installed.

Modelled on vllm/benchmarks/serve.py, ``fetch_spec_decode_metrics``: plain lines, no Prometheus library,
``_created`` series skipped, counters summed over label sets, positions from the label.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import httpx
import pytest

from tests.e2e.server import ask

pytestmark = [pytest.mark.clients, pytest.mark.cluster]

DASHBOARD = [
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "num_preemptions_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "request_success_total",
    "time_to_first_token_seconds_bucket",
    "inter_token_latency_seconds_bucket",
    "request_time_per_output_token_seconds_bucket",
    "e2e_request_latency_seconds_bucket",
    "request_queue_time_seconds_bucket",
    "request_prefill_time_seconds_bucket",
    "request_decode_time_seconds_bucket",
    "request_inference_time_seconds_bucket",
    "request_prompt_tokens_bucket",
    "request_generation_tokens_bucket",
    "iteration_tokens_total_bucket",
    "spec_decode_num_drafts_total",
    "spec_decode_num_draft_tokens_total",
    "spec_decode_num_accepted_tokens_total",
    "spec_decode_num_accepted_tokens_per_pos_total",
]
"""The series that vLLM's published Grafana dashboards and readers query."""


@dataclass
class SpecDecode:
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    per_pos: Counter[int] = field(default_factory=Counter)


def read(client: httpx.Client) -> SpecDecode | None:
    response = client.get("/metrics")
    assert response.status_code == 200
    found, seen = False, SpecDecode()
    for line in map(str.strip, response.text.split("\n")):
        if not line or line.startswith("#") or not line.startswith("vllm:spec_decode"):
            continue
        name, value = line.split("{")[0], float(line.split()[-1])
        if name.endswith("_created"):
            continue
        found = True
        if "num_drafts" in name:
            seen.num_drafts += int(value)
        elif "num_draft_tokens" in name:
            seen.num_draft_tokens += int(value)
        elif "num_accepted_tokens_per_pos" in name:
            seen.per_pos[int(line.split('position="')[1].split('"')[0])] += int(value)
        elif "num_accepted_tokens" in name:
            seen.num_accepted_tokens += int(value)
    return seen if found else None


def test_its_difference_over_a_run_is_what_the_answers_say(client: httpx.Client):
    before = read(client)
    answers = [
        ask(client, prompt, max_tokens=32, ignore_eos=True)
        for prompt in ("Tell a short story set in the harbor.", "x")
    ]
    after = read(client)
    assert before is not None
    assert after is not None
    said = [answer["metrics"]["speculative_decoding"] for answer in answers]
    assert after.num_drafts - before.num_drafts == sum(one["num_spec_steps"] for one in said)
    assert after.num_draft_tokens - before.num_draft_tokens == sum(one["num_draft_tokens"] for one in said)
    accepted = after.num_accepted_tokens - before.num_accepted_tokens
    assert accepted == sum(one["num_accepted_draft_tokens"] for one in said) > 0
    per_pos = after.per_pos - before.per_pos
    assert sum(per_pos.values()) == accepted
    shares = [per_pos[position] for position in sorted(after.per_pos)]
    assert shares == sorted(shares, reverse=True), "a token is accepted only behind accepted ones"


def test_every_series_of_its_dashboards_is_there(client: httpx.Client):
    text = client.get("/metrics").text
    missing = [name for name in DASHBOARD if f"\nvllm:{name}{{" not in text]
    assert missing == []


def test_a_head_says_the_same_without_the_text(client: httpx.Client):
    head = client.head("/metrics")
    assert head.status_code == 200
    assert head.headers["content-type"] == client.get("/metrics").headers["content-type"]
    assert head.content == b""
