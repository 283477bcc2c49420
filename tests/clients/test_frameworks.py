"""Agent frameworks from their own packages: tools streamed and whole, objects, and a prompt that is too long."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.gateway.http.routes import create_app
from tests.clients.environments import run
from tests.clients.obliging import Obliging
from tests.e2e.server import ROOT
from tests.unit.gateway.conftest import serving

pytestmark = pytest.mark.clients

FLOWS = ("agents", "instructor", "langchain", "litellm", "llama_index", "pydantic_ai")
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": str(ROOT)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FLOWS)
async def test_its_flow_works(name: str, tmp_path: Path):
    backend = Obliging()
    async with serving(create_app(backend)) as address:
        command = ["python", "-m", f"tests.clients.frameworks.{name}_flow", address]
        done = await asyncio.to_thread(run, "frameworks", command, tmp_path, **OFFLINE)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert backend.tally.started >= 4
    assert backend.tally.running == 0
