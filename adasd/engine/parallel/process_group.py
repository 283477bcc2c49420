"""The process group of the ranks: NCCL between cards, gloo between processes on a CPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from adasd.errors import ConfigError

LONGEST_S = 120.0
"""Longest wait for another rank within a pass; a rank that is gone is noticed at once, by its connection."""

STORE_NAME = "store"


@contextmanager
def joined(folder: Path, rank: int, num_ranks: int, device: torch.device) -> Iterator[None]:
    """This process as one rank of the group, which meets in ``folder``. ConfigError if it cannot be.

    gloo listens on the loopback address: all ranks are on one node.
    """
    found = torch._C._get_accelerator().type  # what transformers places shards on
    if device.type != found:
        raise ConfigError(
            f"the device is {device}, but transformers places the shards of {num_ranks} ranks on {found}; hide other "
            "devices (CUDA_VISIBLE_DEVICES)"
        )
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=FileStore(str(folder / STORE_NAME), num_ranks),
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=LONGEST_S),
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
