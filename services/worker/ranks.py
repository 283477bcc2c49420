"""The ranks of a target with ``tensor_parallel``: this replica is rank 0, the others are Ray actors beside it.

All of them are in the placement group of the replica, one bundle each, on one node. The actors end with the replica,
however it ends; a replica that loses a rank ends, too, and Serve starts another one.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adasd.config import EngineConfig
from adasd.errors import WorkerLost
from services.config import LogConfig, TierConfig
from services.observability.logs import configure

if TYPE_CHECKING:  # they import torch, which takes seconds
    from adasd.engine.parallel.channel import Channel
    from adasd.engine.parallel.rank_group import RankGroup

log = logging.getLogger("ray.serve")  # the only logger that Serve shows

LAST_WORDS_S = 1.0
"""A replica that lost a rank has this long to answer its callers."""


class Rank:
    """The actor of one rank other than 0."""

    def follow(self, config: EngineConfig, rank: int, folder: str, logs: LogConfig | None) -> None:
        """Hold a shard of the model and follow rank 0, until that is gone."""
        from adasd.engine.parallel.follower import follow

        if logs is not None:
            configure(logs)
        follow(config, rank, Path(folder))


class ReplicaRanks:
    """The ranks of one replica. ``end_process`` ends this process if a rank is lost."""

    def __init__(
        self,
        tier: TierConfig,
        logs: LogConfig | None = None,
        end_process: Callable[[int], object] = os._exit,
    ) -> None:
        self._tier, self._logs, self._end_process = tier, logs, end_process
        self._group: RankGroup | None = None
        self._actors: list[Any] = []

    def start(self) -> Channel:
        """Start the actors and join them: rank 0's channel to them. Raises what one of them fails with."""
        import ray

        from adasd.engine.parallel.rank_group import RankGroup

        config = self._tier.placed_engine
        group = self._group = RankGroup(config, self._on_lost)
        ranks = range(1, config.tensor_parallel)
        actor = ray.remote(max_restarts=0)(Rank)
        self._actors = [actor.options(**rank_options(self._tier, rank)).remote() for rank in ranks]
        running = [
            one.follow.remote(config, rank, str(group.folder), self._logs)
            for one, rank in zip(self._actors, ranks, strict=True)
        ]

        def check() -> None:
            ended, _ = ray.wait(running, timeout=0)
            if ended:
                ray.get(ended)
                raise WorkerLost("target", "a rank ended before it joined the others")

        group.join(check)
        return group.channel

    def settle(self) -> None:
        """The engine is ready: nothing on the disk is needed any more."""
        if self._group is not None:
            self._group.settle()

    def check(self) -> None:
        """Raise RankLost if a rank is gone."""
        if self._group is not None:
            self._group.channel.check()

    def close(self) -> None:
        """End the other ranks and give everything back. Idempotent."""
        import ray

        if self._group is not None:
            self._group.close()
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _on_lost(self, why: str) -> None:
        """In a thread of the group: nothing interrupts a pass over NCCL, so the process itself ends."""
        log.error("a rank of the target is lost (%s); this replica ends", why)
        self.settle()
        end = threading.Timer(LAST_WORDS_S, self._end_process, (1,))
        end.daemon = True
        end.start()


def rank_options(tier: TierConfig, rank: int) -> dict[str, Any]:
    """Ray's options for an actor of this replica: its bundle of the replica's placement group."""
    from ray.util import get_current_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = get_current_placement_group()
    assert group is not None, "a replica of several ranks has a placement group"
    place = PlacementGroupSchedulingStrategy(group, rank)
    return {**tier.resources_per_rank, "scheduling_strategy": place}
