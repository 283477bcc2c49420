"""The faults that a service must survive: each is injected, and undone some time later."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from load_tests.faults.local_cluster import LocalCluster, NodeSpec
from load_tests.faults.small_disk import can_mount

SLOW_S = 0.05
"""Delay of a slow link in each direction."""
FROZEN_S = 25.0
"""How long a replica stays frozen; by then its sessions have moved on, and it must notice that."""
DRAFTS_GONE_S = 60.0
FULL_S = 4.0
"""How long a disk stays full."""
LARGE_CHARS = 3_500_000
NUM_LARGE = 8

Undo = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that took effect; ``undo`` it after ``lasts_s`` seconds."""

    what: str  # process ids or host
    undo: Undo | None = None
    lasts_s: float = 0.0


class Faults:
    """The faults of one local cluster, which was deployed with ``settings``."""

    def __init__(
        self,
        cluster: LocalCluster,
        settings: Mapping[str, Any],
        rng: random.Random,
        drafts_gone_s: float = DRAFTS_GONE_S,
    ) -> None:
        self.cluster, self.settings, self.rng, self.drafts_gone_s = cluster, settings, rng, drafts_gone_s
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
        if injected is None:
            return None
        return Injected(f"{node.name} {injected.what}", lambda: self.cluster.restart_if_dead(node), 1.0)

    def kill_every_draft(self) -> Injected | None:
        """All nodes of the drafts at once, so that no draft can come back before ``drafts_gone_s``."""
        nodes = [node for node in self.cluster.nodes if node.pool == "draft"]
        killed = [
            injected.what
            for node in nodes
            if (injected := self._signal(self.cluster.raylet(node), signal.SIGKILL))
        ]
        if not killed:
            return None
        return Injected(" ".join(killed), lambda: self.cluster.restart_if_dead(*nodes), self.drafts_gone_s)

    def fill_disk(self) -> Injected | None:
        """Nothing can be written where all nodes have their logs, sockets and configuration."""
        disk = self.cluster.disk
        if disk is None:
            return None
        disk.fill()
        return Injected(str(disk.folder), disk.free, FULL_S)

    def large_prompts(self) -> Injected:
        """Prompts beyond any context, all at once; ``what`` are the statuses of their answers."""
        asked = {"prompt": "word " * (LARGE_CHARS // 5), "max_tokens": 1}

        def status(_: int) -> str:
            try:
                return str(
                    httpx.post(f"{self.cluster.url}/v1/completions", json=asked, timeout=60.0).status_code
                )
            except httpx.HTTPError as error:
                return type(error).__name__

        with ThreadPoolExecutor(NUM_LARGE) as pool:
            return Injected(" ".join(pool.map(status, range(NUM_LARGE))))

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
DISK_FULL = "disk full"
LARGE_PROMPTS = "large prompts"
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
    "every draft gone": Faults.kill_every_draft,
    DISK_FULL: Faults.fill_disk,
    LARGE_PROMPTS: Faults.large_prompts,
    "rolling update": Faults.update,
}
LOSES_A_TARGET = ("target replica killed", "target node killed", "target replica frozen", "target link cut")


def possible() -> tuple[str, ...]:
    """The kinds that can be injected here: all, but a full disk only where this process may mount one."""
    return tuple(kind for kind in KINDS if kind != DISK_FULL or can_mount())


def unnoticed() -> tuple[str, ...]:
    """The possible kinds that no client notices."""
    return tuple(kind for kind in possible() if kind != ENDS_STREAMS)
