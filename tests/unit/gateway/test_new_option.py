"""A new request option is one field and one line of the .proto file.

A copy of the sources gets a sampling and a speculation option; all code that handles options must know both.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.transport.generate import main as generate

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FIELD, LINE = (
    re.findall(rf"^## Add a request field\n.*?^```{language}\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)[0]
    for language in ("python", "proto")
)
"""The worked example of CONTRIBUTING.md."""
FIELDS = {
    "adasd/requests.py": {
        "    grammar: Grammar | None = option(": FIELD,
        "    max_distortion: float | None = option(": "    haste: int | None = option(None, 'how fast', at_least=1)\n",
    },
    "protos/adasd/v1/generation.proto": {
        "  optional uint32 max_tokens = 1;": LINE,
        "  optional string mode = 1; ": "  optional uint32 haste = 900;\n",
    },
}
TRIED = """
import asyncio, json
import httpx
from adasd.errors import InvalidRequest
from adasd.requests import Mode, SamplingParams, SpeculationOptions
from services.gateway.documentation import table
from services.gateway.grpc.door import start_grpc
from services.gateway.http.routes import create_app
from services.transport.generation import GenerationClient
from services.transport.generation_messages import GenerateCall
from tests.unit.gateway.fake_backend import FakeBackend

class Hasty(FakeBackend):
    def effective(self, options):
        return SpeculationOptions(Mode.EXACT, "adasd", None, 4, 0.0, haste=options.haste or 1)

async def main():
    backend, seen = Hasty(), {}
    http = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(backend)), base_url="http://x")
    async def post(**fields):
        return (await http.post("/v1/completions", json={"prompt": "the cat", **fields})).json()
    body = await post(warmth=0.25, speculation={"haste": 7})
    asked = backend.tally.requests[-1]
    seen["http"] = [asked.sampling.warmth, asked.speculation.haste]
    seen["echo"] = body["speculation"]["haste"]
    seen["http refusal"] = [(await post(**one))["error"] for one in ({"warmth": 2}, {"speculation": {"haste": 0}})]
    schemas = (await http.get("/openapi.json")).json()["components"]["schemas"]
    seen["schema"] = [schemas["ChatBody"]["properties"]["warmth"], schemas["Speculation"]["properties"]["haste"]]
    server = await start_grpc(backend, "127.0.0.1", 0, 100_000)
    client = GenerationClient(server.address)
    async def call(**fields):
        return [event async for event in client.generate(GenerateCall("the cat", **fields))][-1]
    end = await call(sampling=SamplingParams(warmth=0.25), speculation=SpeculationOptions(haste=7))
    asked = backend.tally.requests[-1]
    seen["grpc"] = [asked.sampling.warmth, asked.speculation.haste]
    seen["grpc echo"] = end.speculation.effective.haste
    seen["grpc refusal"] = []
    for one in ({"sampling": SamplingParams(warmth=2.0)}, {"speculation": SpeculationOptions(haste=0)}):
        try:
            await call(**one)
        except InvalidRequest as error:
            seen["grpc refusal"].append([error.message, error.param])
    await client.close()
    await server.stop()
    seen["document"] = table(SamplingParams, SpeculationOptions)
    print(json.dumps(seen))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """The behaviour of a copy of the sources with the two new options."""
    copy = tmp_path_factory.mktemp("copy")
    for package in ("adasd", "services", "protos"):
        shutil.copytree(
            ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
        )
    for name, lines in FIELDS.items():
        text = (copy / name).read_text()
        for before, line in lines.items():
            assert text.count(before) == 1
            text = text.replace(before, line + before)
        (copy / name).write_text(text)
    assert generate(["--root", str(copy)]) == 0
    environment = {**os.environ, "PYTHONPATH": f"{copy}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", TRIED], capture_output=True, text=True, cwd=copy, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_it_arrives_at_both_doors(seen, door):
    assert seen[door] == [0.25, 7]


@pytest.mark.parametrize("echo", ["echo", "grpc echo"])
def test_its_effective_value_comes_back(seen, echo):
    assert seen[echo] == 7


def test_both_doors_check_its_range_in_the_same_words(seen):
    http = [[error["message"], error["param"]] for error in seen["http refusal"]]
    assert http == [
        ["warmth is 2.0; it must be between 0 and 1", "warmth"],
        ["speculation.haste is 0; it must be at least 1", "speculation.haste"],
    ]
    assert seen["grpc refusal"] == http


def test_schema_and_documentation_have_it(seen):
    warmth, haste = seen["schema"]
    assert (warmth["description"], haste["description"]) == ("how warm", "how fast")
    assert warmth["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 1}
    assert haste["anyOf"][0] == {"type": "integer", "minimum": 1}
    assert "| `warmth` | how warm | between 0 and 1 |" in seen["document"]
    assert "| `haste` | how fast | at least 1 |" in seen["document"]
