"""A whole response: gathers every event of every answer, then writes one body. And the shapes of responses."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from adasd.errors import AdasdError
from adasd.results import Complete
from services.gateway.backend import Backend, Text
from services.gateway.http.choice_stream import ChoiceDelta, ChoiceReader
from services.gateway.http.chunk_writer import ChunkWriter
from services.gateway.http.event_stream import StreamWriter
from services.gateway.http.multiplex import Events
from services.gateway.http.openai_format import OpenAiFormat, choice
from services.gateway.http.order import Order
from services.gateway.http.reports import reports_json
from services.gateway.http.token_lists import prompt_logprobs
from services.gateway.http.turns import answers_of


@dataclass(frozen=True, slots=True)
class GatheredAnswer:
    """One gathered answer."""

    pieces: tuple[ChoiceDelta, ...]
    end: Complete


class ResponseShape(Protocol):
    """How one route writes its responses. ``head`` has ``id``, ``created`` and ``model``."""

    @property
    def id_prefix(self) -> str:
        """How the ids of its responses begin."""
        ...

    def whole(
        self, order: Order, head: dict[str, Any], answers: list[GatheredAnswer], text: Text
    ) -> dict[str, Any]:
        """The body of a response that is not streamed."""
        ...

    def writer(self, order: Order, head: dict[str, Any], text: Text) -> StreamWriter:
        """A new writer for one streamed response."""
        ...


@dataclass(frozen=True, slots=True)
class Choices:
    """The shape of chat and text completions: one choice per answer."""

    form: OpenAiFormat

    @property
    def id_prefix(self) -> str:
        return self.form.id_prefix

    def whole(
        self, order: Order, head: dict[str, Any], answers: list[GatheredAnswer], text: Text
    ) -> dict[str, Any]:
        choices = [_choice(order, self.form, i, answer, text) for i, answer in enumerate(answers)]
        reports = reports_json(order, [answer.end for answer in answers])
        body = {**head, "object": self.form.whole, "choices": choices, **reports}
        if order.prompt_logprobs:
            listed = [
                prompt_logprobs(one.prompt, answer.pieces[0].prompt, text)
                for one, answer in zip(order.requests, answers, strict=True)
            ]
            if not self.form.prompt_in_choice:
                return {**body, "prompt_logprobs": listed[0]}
            for entry, prompt in zip(choices, listed, strict=True):
                entry["prompt_logprobs"] = prompt
        return body

    def writer(self, order: Order, head: dict[str, Any], text: Text) -> StreamWriter:
        return ChunkWriter(order, self.form, head, text)


async def gather(order: Order, backend: Backend) -> list[GatheredAnswer]:
    """All answers of an order at once; the first failure cancels the others and is raised."""
    text = backend.tokenizer
    answers = answers_of(order.requests, backend)
    if len(answers) == 1:
        return [await _answer(order, 0, answers[0], text)]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_answer(order, i, one, text)) for i, one in enumerate(answers)]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _choice(
    order: Order, form: OpenAiFormat, index: int, answer: GatheredAnswer, text: Text
) -> dict[str, Any]:
    part = form.answer(answer.pieces)
    listed = [token for piece in answer.pieces for token in piece.listed]
    entry = choice(index, part, form.logprobs(listed, text), answer.pieces[-1].finish_reason)
    entry["stop_reason"] = answer.end.stop_match
    if order.provenance:
        entry["adasd"] = {"tokens": [token for piece in answer.pieces for token in piece.provenance]}
    return entry


async def _answer(order: Order, index: int, answer: Events, text: Text) -> GatheredAnswer:
    reader = ChoiceReader(order, index, text)
    pieces: list[ChoiceDelta] = []
    async with aclosing(answer) as events:
        async for event in events:
            if isinstance(event, Complete):
                ending = reader.end(event)
                return GatheredAnswer((*pieces, ending) if ending else tuple(pieces), event)
            pieces.append(reader.read(event))
    raise AdasdError("the answer ended without its last event")
