"""What a service has to survive: each blow is struck, and a while later what it took away is given back."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from load_tests.local_cluster import NodeSpec, Rig

SLOW_S = 0.05
"""Each way, on a slow link."""
SECOND_WIND_S = 25.0
"""How long a frozen replica stays frozen; by then its sessions have moved on, and it has to notice."""

Undo = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Struck:
    """A blow that hit; ``undo`` after ``lasts_s`` seconds."""

    what: str  # process ids or host
    undo: Undo | None = None
    lasts_s: float = 0.0


class Blows:
    """Ways to hurt one rig. ``settings`` are those that it was deployed with."""

    def __init__(self, rig: Rig, settings: Mapping[str, Any], rng: random.Random) -> None:
        self.rig, self.settings, self.rng = rig, settings, rng
        self.num_updates = 0

    def strike(self, kind: str) -> Struck | None:
        """One of KINDS; None if there was nothing to hit."""
        return KINDS[kind](self)

    def kill_replica(self, role: str) -> Struck | None:
        return self._signal(self.rig.replicas(role), signal.SIGKILL)

    def kill_node(self, pool: str) -> Struck | None:
        """The raylet, and with it everything on the node; another starts at once."""
        node = self._node(pool)
        struck = self._signal(self.rig.raylet(node), signal.SIGKILL)
        return Struck(f"{node.name} {struck.what}", self.rig.restart_dead_nodes, 1.0) if struck else None

    def kill_controller(self) -> Struck | None:
        pids = [pid for pid, command in self.rig.processes().items() if "ServeController" in command]
        return self._signal(pids, signal.SIGKILL)

    def freeze_replica(self, role: str) -> Struck | None:
        """Alive but silent: connections stay open, nothing is answered, for a while."""
        struck = self._signal(self.rig.replicas(role), signal.SIGSTOP)
        if struck is None:
            return None

        def thaw() -> None:
            with suppress(ProcessLookupError):
                os.kill(int(struck.what), signal.SIGCONT)

        return Struck(struck.what, thaw, SECOND_WIND_S)

    def slow_link(self, pool: str) -> Struck:
        host = self._node(pool).ip
        self.rig.link.delay(host, SLOW_S)
        return Struck(host, lambda: self.rig.link.delay(host, 0.0), 8.0)

    def drop_link(self, pool: str) -> Struck:
        """Nothing arrives; what was sent meanwhile comes late, as after lost packets."""
        host = self._node(pool).ip
        self.rig.link.hold(host)
        return Struck(host, lambda: self.rig.link.let_go(host), 4.0)

    def cut_link(self, pool: str) -> Struck | None:
        host = self._node(pool).ip
        return Struck(host) if self.rig.link.cut(host) else None

    def update(self) -> Struck:
        """``serve deploy`` of a changed configuration: every replica is replaced."""
        self.num_updates += 1
        slots = self.settings["target"]["num_slots"] + self.num_updates
        target = {**self.settings["target"], "num_slots": slots}
        self.rig.deploy({**self.settings, "target": target})
        return Struck(f"target.num_slots {slots}")

    def _signal(self, pids: list[int], number: int) -> Struck | None:
        if not pids:
            return None
        pid = self.rng.choice(pids)
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            return Struck(str(pid))
        return None

    def _node(self, pool: str) -> NodeSpec:
        return self.rng.choice([node for node in self.rig.nodes if node.pool == pool])


KINDS: Mapping[str, Callable[[Blows], Struck | None]] = {
    "draft replica killed": lambda blows: blows.kill_replica("draft"),
    "target replica killed": lambda blows: blows.kill_replica("target"),
    "draft node killed": lambda blows: blows.kill_node("draft"),
    "target node killed": lambda blows: blows.kill_node("target"),
    "controller killed": Blows.kill_controller,
    "draft replica frozen": lambda blows: blows.freeze_replica("draft"),
    "target replica frozen": lambda blows: blows.freeze_replica("target"),
    "draft link slow": lambda blows: blows.slow_link("draft"),
    "target link slow": lambda blows: blows.slow_link("target"),
    "draft link dropping": lambda blows: blows.drop_link("draft"),
    "target link dropping": lambda blows: blows.drop_link("target"),
    "draft link cut": lambda blows: blows.cut_link("draft"),
    "target link cut": lambda blows: blows.cut_link("target"),
    "rolling update": Blows.update,
}
LOSES_A_TARGET = ("target replica killed", "target node killed", "target replica frozen", "target link cut")
