"""A fake door with real behaviour, and a small server with the parts of OpenAI and Prometheus that the runner reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from cluster.simulation.objective import Objective
from load_tests.load.answers import Ask, Outcome, Reply
from load_tests.load.stage import Options

METRICS = """\
adasd_worker_slots{role="target",replica="t"} 4.0
adasd_worker_slots{role="draft",replica="d"} 4.0
vllm:num_requests_running{role="orchestrator"} RUNNING
adasd_worker_leases{role="target"} LEASES
adasd_process_resident_bytes{role="target"} 1e8
"""


class SerialDoor:
    """Answers one request at a time, ``seconds`` each: a server without any concurrency."""

    def __init__(self, now, seconds: float, outcome: Outcome = Outcome.DONE) -> None:
        self._now, self._seconds, self._outcome, self._turn = now, seconds, outcome, asyncio.Lock()

    async def ask(self, ask: Ask, answer: Reply) -> None:
        async with self._turn:
            await asyncio.sleep(self._seconds)
        answer.chunks_s += [self._now(), self._now()]
        answer.num_tokens, answer.text = 2, "two tokens"
        answer.outcome, answer.ended_s = self._outcome, self._now()

    async def close(self) -> None:
        pass


class FakeServer:
    """Its behaviour can be changed while it runs."""

    def __init__(self) -> None:
        self.url = ""
        self.text = "Hello"
        self.leases = 0
        self.is_ready = True
        self.hangs = False
        self.pause_s = 0.0  # between two chunks
        self.scrambled: Iterator[str] | None = None  # sent instead
        self.num_left = self.num_told = 0  # clients that left, and that heard all

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(self, _: web.Request) -> web.Response:
        body = {"ready": self.is_ready, "reasons": [] if self.is_ready else ["the target loads"]}
        return web.json_response(body, status=200 if self.is_ready else 503)

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=METRICS.replace("RUNNING", "0").replace("LEASES", str(self.leases)))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        try:
            body = json.loads(await request.read())
            assert isinstance(body["messages"][0], dict)
        except Exception:
            return web.json_response({"error": {"message": "this is no request"}}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for piece in self.text:
                content = next(self.scrambled) if self.scrambled else piece
                await self.send(response, {"choices": [{"delta": {"content": content}}]})
                await asyncio.sleep(30.0 if self.hangs else self.pause_s)
            drafting = {"num_draft_tokens": 4, "num_accepted_draft_tokens": 3}
            usage = {"completion_tokens": len(self.text)}
            last = {"choices": [], "usage": usage, "metrics": {"speculative_decoding": drafting}}
            await self.send(response, last)
            await response.write(b"data: [DONE]\n\n")
            self.num_told += 1
        except (ConnectionError, asyncio.CancelledError):
            self.num_left += 1
            raise
        return response

    async def send(self, response: web.StreamResponse, event: object) -> None:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[FakeServer, web.AppRunner]]:
    """A FakeServer on a free port; ``cleanup`` of the second one kills it."""
    fake = FakeServer()
    app = web.Application()
    app.add_routes(
        [
            web.get("/health", fake.health),
            web.get("/ready", fake.ready),
            web.get("/metrics", fake.metrics),
            web.post("/v1/chat/completions", fake.chat),
        ]
    )
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield fake, runner
    finally:
        await runner.cleanup()


def options(**changes) -> Options:
    """Small and quick, with an objective that even a busy machine meets."""
    small = {"seconds": 0.3, "rate_per_s": 40.0, "num_requests": 12, "doors": ("http",)}
    return Options(**{**small, "objective": Objective(60_000.0, 60_000.0), **changes})


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}
