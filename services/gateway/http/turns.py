"""The answers of one request take turns where there are fewer slots than answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from adasd.errors import Overloaded
from adasd.requests import GenerationRequest
from services.gateway.backend import Backend
from services.gateway.http.multiplex import Events


def answers_of(requests: Sequence[GenerationRequest], backend: Backend) -> list[Events]:
    """The events of each answer of one HTTP request."""
    if len(requests) == 1:
        return [backend.generate(requests[0])]
    turns = Turns(backend)
    return [turns.answer(request) for request in requests]


class Turns:
    """The answers of one request: one that is refused a slot waits for another to end, and tries again."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._num_trying = 0  # answers that the backend makes, or looks for a slot for
        self._num_ended = 0
        self._one_ended = asyncio.Condition()

    async def answer(self, request: GenerationRequest) -> Events:
        """As ``Backend.generate``; raises Overloaded only if no other answer of this request may still free a slot."""
        while True:
            num_ended, has_begun = self._num_ended, False
            self._num_trying += 1
            try:
                async with aclosing(self._backend.generate(request)) as events:
                    async for event in events:
                        has_begun = True
                        yield event
                return
            except Overloaded:
                is_last = self._num_trying == 1 and num_ended == self._num_ended
                if has_begun or is_last:
                    raise
            finally:
                self._num_trying -= 1
                if has_begun:
                    await self._end()
            await self._until_one_ends(num_ended)

    async def _end(self) -> None:
        self._num_ended += 1
        async with self._one_ended:
            self._one_ended.notify_all()

    async def _until_one_ends(self, num_ended: int) -> None:
        """Wait until more than ``num_ended`` answers have ended."""
        async with self._one_ended:
            while self._num_ended <= num_ended:
                await self._one_ended.wait()
