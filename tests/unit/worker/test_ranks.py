"""What a replica of several ranks does when one is lost; with real ranks and Ray: tests/e2e/test_tensor_parallel.py."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor

import pytest

from adasd.config import EngineConfig
from adasd.engine.parallel.channel import connect
from adasd.engine.parallel.rank_group import RankGroup
from adasd.errors import RankLost
from services.config import TierConfig
from services.worker import ranks
from services.worker.ranks import ReplicaRanks


def test_a_replica_that_loses_a_rank_fails_its_health_check_and_ends(monkeypatch):
    monkeypatch.setattr(ranks, "LAST_WORDS_S", 0.01)
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    tier = TierConfig(EngineConfig("m", device="cpu", tensor_parallel=2))
    replica = ReplicaRanks(tier, end_process=ended.put)
    replica.check()  # nothing has started
    group = replica._group = RankGroup(tier.engine, replica._on_lost)
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(group.channel.accept, lambda: None)
        rank = connect(group.folder)
        accepted.result(10)
    replica.check()
    assert ended.empty()
    rank.close()
    assert ended.get(timeout=10) == 1
    with pytest.raises(RankLost, match="a rank has ended by itself"):
        replica.check()
    assert not group.folder.exists()
    replica._group.close()


def test_ranks_share_what_the_replica_reserves():
    tier = TierConfig(EngineConfig("m", tensor_parallel=4), num_cpus=2.0, num_gpus=4.0)
    assert tier.resources_per_rank == {"num_cpus": 0.5, "num_gpus": 1.0}
    assert tier.placed_engine.device == "cuda"
