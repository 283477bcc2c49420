"""The demo pair as a gateway's backend, in this process; FakeBackend answers what is steered or dictated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from adasd import LocalPair
from adasd.config import SpeculationConfig
from adasd.demo.tasks import Task, heldout
from adasd.requests import GenerationRequest
from adasd.results import Chunk, Complete
from services.example_prompts import DEMO
from services.gateway.backend import ServedModel
from tests.unit.gateway.fake_backend import FakeBackend

MODELS = Path(__file__).resolve().parents[2] / "models" / "demo"
STEERED = ("overload", "break", "hang")


class PairBackend(FakeBackend):
    """``says``: a text to answer with, in place of the pair's."""

    def __init__(self, pair: LocalPair) -> None:
        assert pair.tokenizer is not None
        super().__init__(context_len=pair.target.max_context, tokenizer=pair.tokenizer)
        self.model_name = "adasd-demo"
        self.pair, self.config = pair, pair.controller.config

    @classmethod
    def load(cls) -> PairBackend:
        config = SpeculationConfig(bypass=False)  # the target is so fast that plain decoding would win
        pair = LocalPair.load(str(MODELS / "target"), str(MODELS / "draft"), speculation=config)
        for task in Task:  # relaxation begins once the controller has seen enough rejections
            for example in heldout(task, 4):
                pair.chat(example.prompt, mode="adaptive")
        return cls(pair)

    def models(self) -> list[ServedModel]:
        return [ServedModel("adasd-demo", self.context_len, 1_700_000_000, "target", "draft", (), DEMO)]

    async def _events(self, request: GenerationRequest, text: str) -> AsyncGenerator[Any, None]:
        if self.says is not None or any(word in text for word in STEERED):
            async for event in super()._events(request, text):
                yield event
            return
        events = self.pair.stream(request.prompt, request.sampling, request.speculation)
        try:
            for event in events:
                assert isinstance(event, Chunk | Complete)
                yield event
                await asyncio.sleep(0.004)  # as over a network
        finally:
            events.close()  # type: ignore[attr-defined]
