"""Two ranks of a model: rank 0 in the process of the tests, the other one in a process that all of them share."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np

from adasd.config import EngineConfig
from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.engine import TorchEngine
from adasd.engine.parallel.follower import Follower, follow
from adasd.engine.parallel.rank_group import RankGroup


class OtherRank:
    """A process that is rank 1 of one model after the other."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._jobs: Queue = spawn.Queue()
        self._results: Queue = spawn.Queue()
        self.process = spawn.Process(target=_follow_all, args=(self._jobs, self._results), daemon=True)
        self.process.start()
        self.pid = self.process.pid

    @contextmanager
    def engine(
        self, model: Path, on_lost=lambda why: None, *, ends: bool = False, **settings
    ) -> Iterator[TorchEngine]:
        """An engine over two ranks. ``cache`` is then what rank 1's held, unless its process ``ends``."""
        config = EngineConfig(
            str(model),
            tensor_parallel=2,
            **{"num_slots": 8, "prefill_chunk": 40, "device": "cpu", **settings},
        )
        group = RankGroup(config, on_lost)
        try:
            self._jobs.put((config, str(group.folder)))
            group.join(self.check)
            engine = TorchEngine.from_config(config, channel=group.channel)
            group.settle()
            assert not group.folder.exists()
            yield engine
        finally:
            group.close()
            if not ends:
                self.cache = self._results.get(timeout=60)

    def check(self) -> None:
        assert self.process.is_alive(), "rank 1 has ended"

    def end(self) -> None:
        self._jobs.put(None)
        self.process.join(60)
        self.process.kill()


def held(cache: KVCache) -> list[np.ndarray]:
    """The keys and values of all places, layer by layer."""
    return [layer[: cache.scratch].numpy().copy() for layer in cache.tokens]


def _follow_all(jobs: Queue, results: Queue) -> None:
    while (job := jobs.get()) is not None:
        config, folder = job
        followers: list[Follower] = []
        try:
            follow(config, 1, Path(folder), end_process=os._exit, on_loaded=followers.append)
        except Exception as error:
            results.put(f"{type(error).__name__}: {error}")
        else:
            cache = followers[0].cache
            assert cache is not None
            results.put(held(cache))
