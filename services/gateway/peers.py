"""What a gateway replica calls on the other replicas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from services.transport.generation_messages import Loads


class Peers(Protocol):
    """All replicas of the deployment, this one included."""

    async def abort(self, request_ids: Sequence[str]) -> tuple[str, ...]:
        """Stop these requests on every replica; returns those that were running."""
        ...

    async def loads(self) -> Loads:
        """The load of all worker replicas."""
        ...
