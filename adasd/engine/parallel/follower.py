"""The ranks other than 0: they load their shard and do what rank 0 says, until it is gone."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from adasd.config import EngineConfig
from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.layout import CacheLayout
from adasd.engine.cache.pages import runs_of
from adasd.engine.forward.agreement import reference_logits
from adasd.engine.forward.attention import prepare_device
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.modules import ModuleForward
from adasd.engine.forward.protocol import Forward
from adasd.engine.loading.limits import resolve_device
from adasd.engine.loading.model import load_model
from adasd.engine.parallel.channel import FAILED, LOADED, connect, receive, send
from adasd.engine.parallel.plans import CopyPlaces, NewCache, Pass, ZeroPlaces, unpacked
from adasd.engine.parallel.process_group import joined

_log = logging.getLogger(__name__)

STUCK_S = 10.0
"""How long a pass may go on after rank 0 is gone; then this process ends, as nothing else interrupts NCCL."""


class GivenLayout:
    """The part of a ``CacheLayout`` that a pass reads, as rank 0 sent it."""

    def __init__(self, given: NewCache) -> None:
        self.num_slots, self.max_context = given.num_slots, given.max_context
        self.num_places, self.page_size, self.windows = given.num_places, given.page_size, given.windows
        self.tables: Mapping[
            int, Sequence[Sequence[int]]
        ] = {}  # slot -> its pages of each table, of this pass

    def runs(self, slot: int, start: int, end: int, table: int = 0) -> Sequence[range]:
        if self.page_size is None:
            first = slot * self.max_context
            return [range(first + start, first + end)]
        return runs_of(self.tables[slot][table], self.page_size, start, end)

    def pages(self, slot: int, table: int = 0) -> Sequence[int]:
        return self.tables[slot][table]


class Follower:
    """Runs plans over one shard."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.cache: KVCache | None = None

    @torch.inference_mode()
    def run(self, messages: Iterator[bytes]) -> None:
        """Do what the messages say, one after the other."""
        for message in messages:
            plan = unpacked(message)
            if isinstance(plan, NewCache):
                self.cache = None  # first, so that the new one finds its memory
                self.cache = self.forward.make_cache(GivenLayout(plan))  # type: ignore[arg-type]
                continue
            cache = self.cache
            assert cache is not None, "a plan before the first cache"
            match plan:
                case CopyPlaces(source, target):
                    cache.copy_places(source, target)
                case ZeroPlaces(places):
                    cache.zero_places(places)
                case Pass(inputs, pages):
                    layout: CacheLayout = cache.layout
                    layout.tables = {one.slot: table for one, table in zip(inputs, pages, strict=True)}  # type: ignore[attr-defined]
                    self.forward(ForwardBatch(inputs, layout, self.forward.device), cache)


def follow(
    config: EngineConfig,
    rank: int,
    folder: Path,
    *,
    end_process: Callable[[int], object] = os._exit,
    on_loaded: Callable[[Follower], None] = lambda follower: None,
) -> None:
    """Be rank ``rank`` of the model, until rank 0 closes its connection. What fails is told to rank 0, then raised.

    ``folder`` is rank 0's.
    """
    torch.set_num_threads(config.num_threads or 1)
    device = resolve_device(config.device)
    prepare_device(device)
    with connect(folder) as connection:
        try:
            with joined(folder, rank, config.tensor_parallel, device):
                model = load_model(config)
                send(connection, LOADED)
                if receive(connection) is None:
                    return
                reference_logits(model)  # as rank 0 does, for it needs all ranks
                follower = Follower(ModuleForward(model))
                on_loaded(follower)
                with Inbox(connection, end_process) as inbox:
                    follower.run(iter(inbox))
        except Exception as error:
            with suppress(OSError):  # rank 0 is gone itself
                send(connection, FAILED + f"rank {rank} failed: {error}".encode())
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # rank 0 may have had no time for it


class Inbox:
    """The messages of rank 0, read by a thread of its own, which notices at once that rank 0 is gone."""

    def __init__(self, connection: socket.socket, end_process: Callable[[int], object]) -> None:
        self._line, self._end_process = connection, end_process
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read, name="rank-0", daemon=True)

    def __enter__(self) -> Inbox:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def __iter__(self) -> Iterator[bytes]:
        while (message := self._messages.get()) is not None:
            yield message

    def _read(self) -> None:
        while (message := receive(self._line)) is not None:
            self._messages.put(message)
        self._messages.put(None)
        if not self._over.wait(STUCK_S):
            _log.error("rank 0 is gone and a pass does not end; this process ends")
            self._end_process(1)
