"""What a pod does before it stops: ``python -m cluster.drain --deadline-s 630`` (its preStop hook).

Tells Ray that this node goes away. Serve then starts replacements elsewhere, sends no new session here, and the
raylet ends once the last replica of this node has. The command returns then, or at the deadline. On the head
node it waits for the workers' nodes instead, which need the head for as long as they drain.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

POLL_S = 2.0


@dataclass(frozen=True, slots=True)
class RayNode:
    """A node of the cluster that is alive."""

    node_id: str
    address: str
    is_head: bool


class Gcs(Protocol):
    """The calls to Ray's control store."""

    def alive(self) -> list[RayNode]: ...

    def drain(self, node_id: str, deadline_s: float) -> None:
        """Announce that the node will be gone ``deadline_s`` seconds from now."""
        ...


def drain(
    gcs: Gcs,
    own_address: str,
    deadline_s: float,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> bool:
    """Leave the cluster in an orderly way; False if the deadline passed first."""
    until_s = now() + deadline_s
    own = [node for node in gcs.alive() if node.address == own_address]
    is_head = any(node.is_head for node in own)
    if not is_head:
        for node in own:
            gcs.drain(node.node_id, deadline_s)
    while now() < until_s:
        left = [n for n in gcs.alive() if (not n.is_head if is_head else n.address == own_address)]
        if not left:
            return True
        sleep(min(POLL_S, max(0.0, until_s - now())))
    return False


class RayGcs:
    """The control store of the cluster at ``address`` (host:port)."""

    def __init__(self, address: str) -> None:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        self._client = GcsClient(address=address)

    def alive(self) -> list[RayNode]:
        from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]

        alive = GcsNodeInfo.GcsNodeState.ALIVE
        infos = self._client.get_all_node_info(timeout=10).values()
        return [
            RayNode(info.node_id.hex(), info.node_manager_address, info.is_head_node)
            for info in infos
            if info.state == alive
        ]

    def drain(self, node_id: str, deadline_s: float) -> None:
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]

        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = time.time_ns() // 1_000_000 + int(deadline_s * 1000)
        accepted, why_not = self._client.drain_node(node_id, reason, "the pod is being deleted", deadline_ms)
        if not accepted:
            print(f"adasd drain: Ray refused: {why_not}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """0 once drained, 1 at the deadline; the pod stops in both cases."""
    parser = argparse.ArgumentParser(prog="python -m cluster.drain", description=__doc__)
    parser.add_argument("--deadline-s", type=float, required=True, help="seconds until this gives up")
    parser.add_argument("--address", default=os.environ.get("RAY_ADDRESS", "127.0.0.1:6379"))
    parser.add_argument("--own-address", default=os.environ.get("POD_IP", "127.0.0.1"))
    arguments = parser.parse_args(argv)
    try:
        done = drain(RayGcs(arguments.address), arguments.own_address, arguments.deadline_s)
    except Exception as error:  # the cluster's head is gone, so there is nothing to wait for
        print(f"adasd drain: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
