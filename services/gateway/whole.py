"""A whole response: every event of every answer is gathered, then written as one body."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from adasd.errors import AdasdError
from adasd.messages import Complete, GenerationRequest
from services.gateway.backend import Backend
from services.gateway.provenance import Provenance
from services.gateway.reports import metrics_json, speculation_json, sum_usage, usage_json
from services.gateway.shapes import Shape, choice
from services.gateway.validation import Order


@dataclass(frozen=True, slots=True)
class Answer:
    """One gathered answer."""

    text: str
    tokens: list[dict[str, Any]] | None  # provenance, if asked for
    end: Complete


async def gather(order: Order, backend: Backend) -> list[Answer]:
    """All answers of an order at once; the first failure cancels the others and is raised."""
    if len(order.requests) == 1:
        return [await _answer(order.requests[0], backend, order.provenance)]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_answer(r, backend, order.provenance)) for r in order.requests]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def body(order: Order, shape: Shape, head: dict[str, Any], answers: list[Answer]) -> dict[str, Any]:
    """The response body; speculation and metrics describe one answer, so several have null metrics."""
    choices = []
    for index, answer in enumerate(answers):
        entry = choice(index, shape.answer(answer.text), answer.end.finish_reason.value)
        entry["stop_reason"] = answer.end.stop_match
        if answer.tokens is not None:
            entry["adasd"] = {"tokens": answer.tokens}
        choices.append(entry)
    report = answers[0].end.speculation
    return {
        **head,
        "object": shape.whole,
        "choices": choices,
        "usage": usage_json(sum_usage([answer.end.usage for answer in answers])),
        "speculation": speculation_json(report),
        "metrics": metrics_json(report) if len(answers) == 1 else None,
    }


async def _answer(request: GenerationRequest, backend: Backend, with_tokens: bool) -> Answer:
    provenance = Provenance(backend.tokenizer.decode) if with_tokens else None
    text: list[str] = []
    tokens: list[dict[str, Any]] = []
    async with aclosing(backend.generate(request)) as events:
        async for event in events:
            if isinstance(event, Complete):
                return Answer("".join(text), tokens if with_tokens else None, event)
            text.append(event.text)
            if provenance is not None:
                tokens += provenance.listed(event)
    raise AdasdError("the answer ended without its last event")
