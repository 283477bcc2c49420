"""What a pod waits for before it stops."""

from __future__ import annotations

import pytest

from cluster.drain import RayNode, drain


class ScriptedGcs:
    """Nodes that leave at given times after the request to leave (or on their own)."""

    def __init__(self, nodes: dict[RayNode, float]) -> None:
        self.nodes, self.now_s, self.told = nodes, 0.0, []

    def alive(self):
        return [node for node, leaves_s in self.nodes.items() if self.now_s < leaves_s]

    def drain(self, node_id, deadline_s):
        self.told.append((node_id, deadline_s))

    def sleep(self, seconds):
        self.now_s += seconds

    def run(self, own_address, deadline_s=100.0):
        return drain(self, own_address, deadline_s, self.sleep, lambda: self.now_s)


HEAD = RayNode("h", "10.0.0.1", is_head=True)
WORKER = RayNode("w", "10.0.0.2", is_head=False)
OTHER = RayNode("o", "10.0.0.3", is_head=False)
NEVER = float("inf")


def test_a_worker_tells_ray_and_waits_until_its_node_is_gone():
    gcs = ScriptedGcs({HEAD: NEVER, WORKER: 30.0, OTHER: NEVER})
    assert gcs.run("10.0.0.2")
    assert gcs.told == [("w", 100.0)]
    assert 30.0 <= gcs.now_s <= 32.0


def test_it_gives_up_at_the_deadline():
    gcs = ScriptedGcs({HEAD: NEVER, WORKER: NEVER})
    assert not gcs.run("10.0.0.2")
    assert gcs.now_s == pytest.approx(100.0)


def test_the_head_is_not_drained_and_outlives_the_workers():
    gcs = ScriptedGcs({HEAD: NEVER, WORKER: 30.0, OTHER: 50.0})
    assert gcs.run("10.0.0.1")
    assert gcs.told == []
    assert gcs.now_s >= 50.0


def test_a_node_that_ray_does_not_know_has_nothing_to_wait_for():
    gcs = ScriptedGcs({HEAD: NEVER})
    assert gcs.run("10.0.0.9")
    assert gcs.now_s == 0.0
