"""Rank 0's hold on the ranks of one model: the folder where they meet, its channel to them, their process group."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from adasd.config import EngineConfig
from adasd.engine.loading.limits import resolve_device
from adasd.engine.parallel.channel import Channel
from adasd.engine.parallel.process_group import joined


class RankGroup:
    """Opened before the other ranks start (``follow`` in ``folder``), closed when the model is no longer served.

    ``on_lost`` is called once, in another thread, if a rank ends before that.
    """

    def __init__(self, config: EngineConfig, on_lost: Callable[[str], None] = lambda why: None) -> None:
        self._config = config
        self._stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="adasd-ranks-"))  # for this user only
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        try:
            self.channel = Channel(self.folder, config.tensor_parallel - 1, on_lost)
        except BaseException:
            self._stack.close()
            raise

    def join(self, check: Callable[[], None] = lambda: None) -> None:
        """Wait for the other ranks and join them; ``check`` raises if one of them never comes."""
        self.channel.accept(check)
        num_ranks, device = self._config.tensor_parallel, resolve_device(self._config.device)
        self._stack.enter_context(joined(self.folder, 0, num_ranks, device))

    def settle(self) -> None:
        """All ranks have met, and a pass has connected them: the folder goes, so that no end can leave it behind."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """End the other ranks, and give everything back. Idempotent."""
        self.channel.close()
        self._stack.close()
