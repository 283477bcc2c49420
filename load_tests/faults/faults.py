"""The faults that a service must survive: each is injected, and undone some time later."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from load_tests.faults.local_cluster import LocalCluster, NodeSpec

SLOW_S = 0.05
"""Delay of a slow link in each direction."""
FROZEN_S = 25.0
"""How long a replica stays frozen; by then its sessions have moved on, and it must notice that."""

Undo = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that took effect; ``undo`` it after ``lasts_s`` seconds."""

    what: str  # process ids or host
    undo: Undo | None = None
    lasts_s: float = 0.0


class Faults:
    """The faults of one local cluster, which was deployed with ``settings``."""

    def __init__(self, cluster: LocalCluster, settings: Mapping[str, Any], rng: random.Random) -> None:
        self.cluster, self.settings, self.rng = cluster, settings, rng
        self.num_updates = 0

    def inject(self, kind: str) -> Injected | None:
        """Inject one of KINDS; None if it found no victim."""
        return KINDS[kind](self)

    def kill_replica(self, role: str) -> Injected | None:
        return self._signal(self.cluster.replicas(role), signal.SIGKILL)

    def kill_orchestrator(self) -> Injected | None:
        """One of several; the others serve on."""
        pids = self.cluster.replicas("orchestrator")
        return self._signal(pids, signal.SIGKILL) if len(pids) > 1 else None

    def kill_node(self, pool: str) -> Injected | None:
        """Kills the raylet, and with it everything on the node; another one starts at once."""
        node = self._node(pool)
        injected = self._signal(self.cluster.raylet(node), signal.SIGKILL)
        return (
            Injected(f"{node.name} {injected.what}", self.cluster.restart_dead_nodes, 1.0)
            if injected
            else None
        )

    def kill_controller(self) -> Injected | None:
        pids = [pid for pid, command in self.cluster.processes().items() if "ServeController" in command]
        return self._signal(pids, signal.SIGKILL)

    def freeze_replica(self, role: str) -> Injected | None:
        """Alive but silent: connections stay open, but no request is answered for a while."""
        injected = self._signal(self.cluster.replicas(role), signal.SIGSTOP)
        if injected is None:
            return None

        def thaw() -> None:
            with suppress(ProcessLookupError):
                os.kill(int(injected.what), signal.SIGCONT)

        return Injected(injected.what, thaw, FROZEN_S)

    def slow_link(self, pool: str) -> Injected:
        host = self._node(pool).ip
        self.cluster.link.delay(host, SLOW_S)
        return Injected(host, lambda: self.cluster.link.delay(host, 0.0), 8.0)

    def drop_link(self, pool: str) -> Injected:
        """Nothing arrives; what is sent in that time arrives late, as after lost packets."""
        host = self._node(pool).ip
        self.cluster.link.hold(host)
        return Injected(host, lambda: self.cluster.link.let_go(host), 4.0)

    def cut_link(self, pool: str) -> Injected | None:
        host = self._node(pool).ip
        return Injected(host) if self.cluster.link.cut(host) else None

    def update(self) -> Injected:
        """``serve deploy`` of a changed configuration, which replaces every replica."""
        self.num_updates += 1
        slots = self.settings["target"]["num_slots"] + self.num_updates
        target = {**self.settings["target"], "num_slots": slots}
        self.cluster.deploy({**self.settings, "target": target})
        return Injected(f"target.num_slots {slots}")

    def _signal(self, pids: list[int], number: int) -> Injected | None:
        if not pids:
            return None
        pid = self.rng.choice(pids)
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            return Injected(str(pid))
        return None

    def _node(self, pool: str) -> NodeSpec:
        return self.rng.choice([node for node in self.cluster.nodes if node.pool == pool])


ENDS_STREAMS = "orchestrator killed"
"""The one fault that clients notice: they are told to send their request again."""
KINDS: Mapping[str, Callable[[Faults], Injected | None]] = {
    ENDS_STREAMS: Faults.kill_orchestrator,
    "draft replica killed": lambda faults: faults.kill_replica("draft"),
    "target replica killed": lambda faults: faults.kill_replica("target"),
    "draft node killed": lambda faults: faults.kill_node("draft"),
    "target node killed": lambda faults: faults.kill_node("target"),
    "controller killed": Faults.kill_controller,
    "draft replica frozen": lambda faults: faults.freeze_replica("draft"),
    "target replica frozen": lambda faults: faults.freeze_replica("target"),
    "draft link slow": lambda faults: faults.slow_link("draft"),
    "target link slow": lambda faults: faults.slow_link("target"),
    "draft link dropping": lambda faults: faults.drop_link("draft"),
    "target link dropping": lambda faults: faults.drop_link("target"),
    "draft link cut": lambda faults: faults.cut_link("draft"),
    "target link cut": lambda faults: faults.cut_link("target"),
    "rolling update": Faults.update,
}
UNNOTICED = tuple(kind for kind in KINDS if kind != ENDS_STREAMS)
LOSES_A_TARGET = ("target replica killed", "target node killed", "target replica frozen", "target link cut")
