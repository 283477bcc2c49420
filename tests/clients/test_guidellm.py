"""guidellm from its own package: content as parts, running usage, tokens per iteration of a stream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.conftest import MODEL, TARGET
from tests.clients.environments import run
from tests.e2e.server import Server

pytestmark = [pytest.mark.clients, pytest.mark.cluster]

NUM_REQUESTS, OUTPUT_LEN = 16, 24


@pytest.mark.timeout(300)
def test_it_sees_more_than_one_token_per_chunk(server: Server, tmp_path: Path):
    command = [
        *("guidellm", "run", "--disable-console-interactive"),
        *("--backend", f"kind=openai_http,target={server.url},model={MODEL}"),
        *("--profile", "kind=concurrent,streams=4"),
        *("--constraint", f"kind=max_requests,count={NUM_REQUESTS}"),
        *("--tokenizer", f"kind=huggingface_auto,model={TARGET}"),
        *("--data", f"kind=synthetic_text,prompt_tokens=40,output_tokens={OUTPUT_LEN}"),
        *("--output", "kind=json,path=out.json"),
    ]
    done = run("guidellm", command, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (benchmark,) = json.loads((tmp_path / "out.json").read_text())["benchmarks"]
    metrics = benchmark["metrics"]
    assert metrics["request_totals"] == {
        "successful": NUM_REQUESTS,
        "errored": 0,
        "incomplete": 0,
        "total": NUM_REQUESTS,
    }
    assert mean(metrics["output_token_count"]) == OUTPUT_LEN  # from usage, not from counting chunks
    # One chunk per verification step: a server that smoothed its chunks would read as 1.
    assert mean(metrics["iter_tokens_per_iteration"]) > 1.1
    first_ms, whole_s = mean(metrics["time_to_first_token_ms"]), mean(metrics["request_latency"])
    assert 0 < first_ms < 1e3 * whole_s


def mean(metric: dict) -> float:
    return float(metric["successful"]["mean"])
