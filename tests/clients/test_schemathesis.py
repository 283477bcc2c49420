"""schemathesis from its own package makes up requests from our OpenAPI document, valid and invalid ones."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tests.clients.environments import run
from tests.e2e.server import ROOT, Server

pytestmark = [pytest.mark.clients, pytest.mark.cluster]

MIN_CASES = 1200
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


@pytest.mark.timeout(600)
def test_no_made_up_request_breaks_the_server_or_its_word(
    server: Server, tmp_path: Path, client: httpx.Client
):
    command = [
        *("schemathesis", "run", f"{server.url}/openapi.json", "--no-color", "--generation-deterministic"),
        # one worker: in Python 3.11 two threads that parse code at the same time fail now and then (gh-106905)
        *("--phases", "coverage,fuzzing", "--max-examples", "60", "--workers", "1"),
        *("--request-timeout", "60", "--no-shrink", "--continue-on-failure"),
        *("--checks", ",".join(CHECKS)),
    ]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.clients.schemathesis_hooks", "PYTHONPATH": str(ROOT)}
    done = run("schemathesis", command, tmp_path, timeout_s=540, **hooks)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    (num_cases,) = re.findall(r"Test cases:\s+(\d+) generated", done.stdout)
    assert int(num_cases) >= MIN_CASES, done.stdout[-3000:]
    assert client.get("/ready").json()["ready"]
