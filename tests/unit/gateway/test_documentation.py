"""docs/api.md and the example are true."""

import asyncio
import json
import os
import re
import runpy
import sys
from pathlib import Path

import pytest

from services.gateway import documentation
from services.gateway.grpc.door import start_grpc
from services.gateway.http.responses.as_chat import REFUSED
from services.gateway.http.responses.body import RESPONSES_BODY
from services.gateway.http.schema import CHAT_BODY, COMPLETION_BODY
from services.gateway.http.unsupported import SILENT
from services.transport.generation_messages import GENERATION_SERVICE
from services.transport.options import PUBLIC_KEEPALIVE, retrying
from tests.unit.gateway.fake_backend import FakeBackend

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = (ROOT / "docs" / "api.md").read_text()
POST = re.compile(
    r"curl http://127\.0\.0\.1:8000(\S+) -H 'Content-Type: application/json' -d '(.*?)'", re.DOTALL
)


@pytest.mark.parametrize(("path", "body"), POST.findall(DOCUMENT))
async def test_every_curl_line_is_answered(tool_door, path, body):
    response = await tool_door.post(path, json.loads(body))
    assert response.status_code == 200, response.text


def test_there_are_curl_lines():
    assert len(POST.findall(DOCUMENT)) >= 6


def test_every_field_is_documented():
    bodies = (CHAT_BODY, COMPLETION_BODY, RESPONSES_BODY)
    fields = {*SILENT, *REFUSED, *(name for body in bodies for name in body.model_fields)}
    named = set(re.findall(r"[a-z_]{3,}", DOCUMENT)) | {"n"}
    assert fields - named == set()


def test_the_tables_of_options_are_what_the_fields_say():
    assert documentation.main(["--check"]) == 0


def test_the_example_client_tries_again_and_pings_as_ours_does():
    example = runpy.run_path(str(ROOT / "examples" / "grpc_client.py"))
    assert tuple(example["OPTIONS"]) == (*retrying(GENERATION_SERVICE), *PUBLIC_KEEPALIVE)


@pytest.mark.parametrize(("question", "status"), [("the cat sat on the mat", 0), ("overload", 1)])
async def test_the_example_client_prints_the_answer(question, status):
    server = await start_grpc(FakeBackend(), "127.0.0.1", 0, max_request_bytes=100_000)
    command = [
        sys.executable,
        "examples/grpc_client.py",
        question,
        "--address",
        server.address,
        "--tries",
        "1",
    ]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=-1, stderr=-1
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    await server.stop()
    assert process.returncode == status, err
    if status == 0:
        assert question in out.decode()
        assert "drafted tokens accepted" in out.decode()
    else:
        assert b"RESOURCE_EXHAUSTED: every slot is taken" in err
