"""NVIDIA's aiperf from its own package: streams chats, reads /metrics, prints a table on speculation."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.clients.conftest import MODEL, TOKENIZER
from tests.clients.environments import run
from tests.e2e.server import Server, wait_for

pytestmark = [pytest.mark.clients, pytest.mark.cluster]

NUM_REQUESTS, OUTPUT_LEN = 16, 24


def profile(server: Server, hub: Path, folder: Path, *options: str) -> dict:
    """aiperf's export after a run; fails with aiperf's output if aiperf fails."""
    command = ["aiperf", "profile", "--model", MODEL, "--url", server.url, "--endpoint-type", "chat"]
    load = ["--streaming", "--concurrency", "4", "--isl", "40", "--osl", str(OUTPUT_LEN)]
    quiet = ["--ui", "none", "--no-gpu-telemetry", "--artifact-dir", "out", "--tokenizer", TOKENIZER]
    done = run("aiperf", [*command, *load, *quiet, *options], folder, HF_HOME=str(hub))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads((folder / "out" / "profile_export_aiperf.json").read_text())


@pytest.mark.timeout(300)
def test_it_measures_speculation_by_itself(server: Server, hub: Path, tmp_path: Path):
    speculation = ["--extra-inputs", json.dumps({"speculation": {"mode": "exact"}})]
    greedy = ["--extra-inputs", "ignore_eos:true", "--extra-inputs", "temperature:0"]
    found = profile(server, hub, tmp_path, "--request-count", str(NUM_REQUESTS), *greedy, *speculation)
    assert found["request_count"]["avg"] == NUM_REQUESTS
    assert found["request_error_rate"]["avg"] == 0
    assert found["usage_completion_tokens"]["avg"] == OUTPUT_LEN
    # aiperf omits its speculation table if our numbers contradict each other.
    assert found["total_draft_tokens"]["avg"] > found["total_accepted_draft_tokens"]["avg"] > 0
    assert found["spec_decode_acceptance_length"]["avg"] > 1
    assert found["time_to_first_token"]["avg"] < found["request_latency"]["avg"]
    metrics = json.loads((tmp_path / "out" / "server_metrics_export.json").read_text())
    assert metrics["summary"]["endpoints_successful"] == [f"{server.url}/metrics"]
    assert "vllm:spec_decode_num_accepted_tokens" in " ".join(metrics["metrics"])


@pytest.mark.timeout(300)
def test_requests_that_it_cancels_leave_nothing_behind(
    server: Server, hub: Path, tmp_path: Path, client: httpx.Client
):
    options = ["--request-cancellation-rate", "50", "--request-cancellation-delay", "0.05"]
    found = profile(
        server, hub, tmp_path, "--request-count", "12", *options, "--extra-inputs", "ignore_eos:true"
    )
    assert 0 < found["request_count"]["avg"] <= 12
    wait_for(lambda: leases(client) == 0, 60.0)


def leases(client: httpx.Client) -> float:
    """Number of sessions that hold a lease, over all replicas."""
    text = client.get("/metrics").text
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("adasd_worker_leases{")
    )
