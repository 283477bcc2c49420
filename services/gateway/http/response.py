"""A whole response: gathers every event of every answer, then writes one body."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from adasd.errors import AdasdError
from adasd.results import Complete
from services.gateway.backend import Backend, Text
from services.gateway.http.choice_stream import ChoiceDelta, ChoiceReader
from services.gateway.http.openai_format import OpenAiFormat, choice
from services.gateway.http.order import Order
from services.gateway.http.reports import reports_json


@dataclass(frozen=True, slots=True)
class GatheredAnswer:
    """One gathered answer."""

    pieces: tuple[ChoiceDelta, ...]
    end: Complete


async def gather(order: Order, backend: Backend) -> list[GatheredAnswer]:
    """All answers of an order at once; the first failure cancels the others and is raised."""
    if len(order.requests) == 1:
        return [await _answer(order, 0, backend)]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_answer(order, i, backend)) for i in range(len(order.requests))]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def body(
    order: Order, form: OpenAiFormat, head: dict[str, Any], answers: list[GatheredAnswer], text: Text
) -> dict[str, Any]:
    """The response body."""
    return {
        **head,
        "object": form.whole,
        "choices": [_choice(order, form, index, answer, text) for index, answer in enumerate(answers)],
        **reports_json(order, [answer.end for answer in answers]),
    }


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


async def _answer(order: Order, index: int, backend: Backend) -> GatheredAnswer:
    reader = ChoiceReader(order, index, backend.tokenizer)
    pieces: list[ChoiceDelta] = []
    async with aclosing(backend.generate(order.requests[index])) as events:
        async for event in events:
            if isinstance(event, Complete):
                ending = reader.end(event)
                return GatheredAnswer((*pieces, ending) if ending else tuple(pieces), event)
            pieces.append(reader.read(event))
    raise AdasdError("the answer ended without its last event")
