"""What one replica of this door needs of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from services.transport.generation_messages import Loads


class Peers(Protocol):
    """All replicas of the deployment, this one included."""

    async def abort(self, request_ids: Sequence[str]) -> tuple[str, ...]:
        """Stop these wherever they run; returns those that were running somewhere."""
        ...

    async def loads(self) -> Loads:
        """How busy everybody is."""
        ...
