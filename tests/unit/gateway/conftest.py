import asyncio
import json
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn

from adasd.text.tokenizer import Tokenizer
from services.gateway.http.routes import GatewaySettings, create_app
from tests.unit.gateway.fake_backend import FakeBackend
from tests.unit.text.tokenizers_for_tests import TOOL_TEMPLATE, byte_level


@asynccontextmanager
async def serving(app):
    """The application behind a real HTTP server on a free port; yields its address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    except BaseException:
        server.force_exit = True  # a failure does not wait for answers that never end
        raise
    finally:
        server.should_exit = True
        await task


class Door:
    """A served FakeBackend and its client."""

    def __init__(self, backend, client, address):
        self.backend, self.client, self.address = backend, client, address

    async def post(self, path, body, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(
            path, content=content, headers={"content-type": "application/json", **headers}
        )

    async def chat(self, prompt="the cat sat on the mat", **fields):
        return await self.post(
            "/v1/chat/completions", {"messages": [{"role": "user", "content": prompt}], **fields}
        )

    async def chunks(self, path="/v1/chat/completions", **fields):
        """Bodies of a stream's events; checks that [DONE] comes last and only once."""
        response = await self.post(path, {"stream": True, **fields})
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        events = response.text.split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]

    async def idle(self, within_s=20.0):
        """Wait until no request runs in the backend; fails after ``within_s`` seconds."""
        async with asyncio.timeout(within_s):
            await self.backend.idle.wait()
        assert self.backend.tally.running == 0


@asynccontextmanager
async def opened(backend):
    """A Door over real sockets."""
    async with (
        serving(create_app(backend)) as address,
        httpx.AsyncClient(base_url=address, timeout=20) as client,
    ):
        yield Door(backend, client, address)


@asynccontextmanager
async def inside(backend):
    """An in-process Door without sockets, for bodies and statuses."""
    app = create_app(backend, GatewaySettings(max_body_bytes=100_000))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(base_url="http://door", transport=transport) as client:
        door = Door(backend, client, "http://door")
        yield door
        await door.idle()


@pytest.fixture
async def door():
    """A Door without sockets, for a model whose chat template knows no tools."""
    async with inside(FakeBackend()) as door:
        yield door


@pytest.fixture
async def tool_door():
    """A Door without sockets, for a model with tools."""
    async with inside(FakeBackend(tokenizer=Tokenizer(byte_level(TOOL_TEMPLATE)), context_len=1024)) as door:
        yield door


@pytest.fixture
async def served():
    """A Door over real sockets."""
    async with opened(FakeBackend()) as door:
        yield door
        await door.idle()
