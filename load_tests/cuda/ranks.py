"""Two ranks of a target without Ray: this process, and one that it starts."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adasd.config import EngineConfig
from adasd.engine.engine import TorchEngine
from adasd.engine.parallel.follower import follow
from adasd.engine.parallel.rank_group import RankGroup
from load_tests.cuda.sizes import Sizes

NUM_RANKS = 2


@contextmanager
def two_ranks(folder: str, sizes: Sizes) -> Iterator[TorchEngine]:
    """An engine over the model in ``folder``; the other rank sees the second card only."""
    config = EngineConfig(
        folder,
        device=sizes.device.type,
        dtype=str(sizes.dtype).removeprefix("torch."),
        num_slots=max(num for num in sizes.batches if num <= 32),
        cache="paged",
        tensor_parallel=NUM_RANKS,
    )
    group = RankGroup(config)
    other = multiprocessing.get_context("spawn").Process(
        target=_follow, args=(config, str(group.folder)), daemon=True
    )

    def check() -> None:
        if not other.is_alive():
            raise RuntimeError("the other rank ended before it joined")

    try:
        other.start()
        group.join(check)
        yield TorchEngine.from_config(config, channel=group.channel)
    finally:
        group.close()
        other.join(30)
        other.kill()


def _follow(config: EngineConfig, folder: str) -> None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
    # torch looks for cards when it first needs one, which is later
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[1] if len(visible) > 1 else ""
    follow(config, 1, Path(folder))
