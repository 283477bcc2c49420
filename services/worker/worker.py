"""A draft or target replica on Ray Serve: loads an engine, grants leases, reports health and metrics.

The control plane is ``lease``: one long-lived streaming call per session, whose first item says where the data plane
(services.worker.service) listens. cluster.app decorates the class.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import asdict
from ipaddress import ip_address
from typing import Any
from uuid import uuid4

from prometheus_client import CollectorRegistry

from adasd.errors import AdasdError
from adasd.ports import Engine
from adasd.requests import Grammar, GrammarKind
from adasd.rounds import OpenCall, SamplingTransform
from services.config import LogConfig, TierConfig, TlsConfig, TracesConfig
from services.observability.logs import configure
from services.observability.process import ProcessCollector
from services.observability.reporter import HandleLink, Reporter
from services.observability.tracing import CallTraces, provider
from services.observability.worker_metrics import WorkerCollector
from services.replica import replica_name
from services.transport.options import LINK_FORM
from services.transport.poller import take_all_events
from services.transport.server import RunningServer, start_server, worker_handler
from services.worker.host import EngineHost
from services.worker.leases import LeaseTable
from services.worker.load_meter import LoadMeter
from services.worker.ranks import ReplicaRanks
from services.worker.service import WorkerService
from services.worker.warmup import warm_up

take_all_events()  # before Serve makes a server in this process
log = logging.getLogger("ray.serve")  # the only logger that Serve shows

Grant = dict[str, str | int]


class Worker:
    """A draft or target replica. Serve counts each lease as one ongoing request."""

    _over = True  # nothing to shut down

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        role: str,
        tier: TierConfig,
        host: str = "127.0.0.1",
        target_model: str | None = None,
        idle_ttl_s: float = 120.0,
        hang_after_s: float = 120.0,
        lease_timeout_s: float = 30.0,
        make_engine: Callable[[], Engine] | None = None,
        model_name: str = "",
        logs: LogConfig | None = None,
        snapshots: Any = None,
        tls: TlsConfig | None = None,
        traces: TracesConfig | None = None,
    ) -> None:
        """Load and warm up the model, then listen.

        host: a loopback address keeps the data plane on loopback; any other binds it to this node's address.
        target_model: for a draft; ids that only one model has are never drafted.
        idle_ttl_s: a lease ends this long after the last traffic of its session.
        hang_after_s: a longer forward pass fails the health check.
        lease_timeout_s: how long a session waits for a slot where ``cache_bytes`` allows fewer than ``num_slots``.
        model_name: the name that clients use, for metrics.
        snapshots: Serve handle of the snapshot store, which gets the replica's metrics; None: none are sent.
        tls: certificates of the data plane. traces: where spans of calls are sent.
        """
        self.role, self.incarnation, self._hang_after_s = role, uuid4().hex, hang_after_s
        self._lease_timeout_s = lease_timeout_s
        began_s = time.monotonic()
        if logs is not None:
            configure(logs)
        log.info("loading the %s model %s", role, tier.engine.model)
        self._ranks: ReplicaRanks | None = None
        if make_engine is None and tier.engine.tensor_parallel > 1:
            self._ranks = ReplicaRanks(tier, logs)
        self._host = EngineHost(make_engine or (lambda: _load(role, tier, target_model, self._ranks)), role)
        self._server: RunningServer | None = None
        self._reporter: Reporter | None = None
        self._traces: CallTraces | None = None
        self._over = False
        try:
            facts = await self._host.start()
            log.info("loaded the %s model in %.1f s; warming up", role, time.monotonic() - began_s)
            await warm_up(self._host, verifies=role == "target")
            self._leases = LeaseTable(facts.num_slots, idle_ttl_s, time.monotonic)
            self._load = LoadMeter()
            if traces is not None and traces.is_on:
                self._traces = CallTraces(provider(traces, role, replica_name()), role)
            self._service = WorkerService(self._host, self._leases, self.incarnation, self._traces)
            self._server = await start_server(
                [worker_handler(self._service, role)], bind_host(host, _node_ip()), tls=tls
            )
            self._grant = self._first_item(self._server.address)
            figures = CollectorRegistry()
            figures.register(ProcessCollector())
            figures.register(
                WorkerCollector(
                    role,
                    model_name,
                    self._host.stats,
                    self._leases.__len__,
                    lambda: self._service.num_streams,
                )
            )
            self._reporter = Reporter(
                figures, replica_name(), role, HandleLink(snapshots) if snapshots else None
            )
            self._reporter.start()
        except BaseException:
            await self.shutdown()
            raise
        log.info(
            "the %s worker listens on %s after %.1f s", role, self._server.address, time.monotonic() - began_s
        )

    async def lease(self, session_id: str) -> AsyncGenerator[Grant, None]:
        """Yield the address of the data plane, then keep the lease until the caller ends it; that frees the slot.

        The lease also ends without traffic, or if the session takes another lease here. While all slots are leased the
        call waits, then raises Overloaded. A replica whose engine has ended leases nothing: until Serve replaces it, it
        looks idle, and requests would go there first.
        """
        self.check_health()
        lease = await self._leases.grant_when_free(session_id, self._lease_timeout_s)
        try:
            self.check_health()
            yield self._grant
            while (left_s := self._leases.idle_left_s(lease)) > 0:  # noqa: ASYNC110
                await asyncio.sleep(min(left_s, 1.0))  # traffic extends the lease, a newer lease ends it
        finally:
            if self._leases.release(lease):
                self._service.end(session_id)

    def check_health(self) -> None:
        """Raise if the engine's thread ended or hangs. Serve then replaces this replica."""
        self._host.check(self._hang_after_s)
        if self._ranks is not None:
            self._ranks.check()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Load since the last report, for the scaling policy (cluster.scaling)."""
        return self._load.since_last(self._host.stats(), len(self._leases))

    def record_replica_metadata(self) -> dict[str, str | int]:
        """What Serve passes to every router when the replica joins."""
        return self._grant

    async def stats(self) -> dict[str, object]:
        """Identity and counts of this replica since its start."""
        stats = self._host.stats()
        figures = asdict(stats) | {"batch_sizes": dict(stats.batch_sizes), "mean_batch": stats.mean_batch}
        return {
            **self._grant,
            **figures,
            "num_leases": len(self._leases),
            "num_streams": self._service.num_streams,
        }

    async def shutdown(self) -> None:
        """Close the server and end the engine's thread. Idempotent."""
        self._over = True
        if self._reporter is not None:
            await self._reporter.stop()
        if self._server is not None:
            await self._service.stop()
            await self._server.stop()
        await self._host.stop()
        if self._ranks is not None:
            await asyncio.to_thread(self._ranks.close)
        if self._traces is not None:
            await asyncio.to_thread(self._traces.shutdown)

    def __del__(self) -> Coroutine[Any, Any, None] | None:
        """Serve awaits this when it drains the replica; at garbage collection nothing is left to do."""
        return None if self._over else self.shutdown()

    def _first_item(self, address: str) -> Grant:
        facts = self._host.facts
        return {
            "role": self.role,
            "replica": replica_name(),
            "address": address,
            "incarnation": self.incarnation,
            "link_form": LINK_FORM,
            "num_slots": facts.num_slots,
            "max_context": facts.max_context,
            "vocab_size": facts.vocab_size,
            "verdict_backend": facts.verdict_backend,
        }


def bind_host(host: str, node_ip: str) -> str:
    """Where the data plane listens: on loopback if ``host`` is loopback, else on the node's own address."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        return host if ip_address(host).is_loopback else node_ip
    except ValueError:  # a host name
        return node_ip


def _node_ip() -> str:
    import ray

    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def _load(role: str, tier: TierConfig, target_model: str | None, ranks: ReplicaRanks | None) -> Engine:
    from adasd.engine.engine import TorchEngine
    from adasd.engine.loading.draft import load_draft

    def progress(what: str, share: float) -> None:
        log.info("%s model: %s (%.0f %%)", role, what, 100 * share)

    engine: Engine
    if target_model is None:
        channel = ranks.start() if ranks is not None else None
        engine = TorchEngine.from_config(tier.placed_engine, progress, channel=channel)
        if ranks is not None:
            ranks.settle()
    else:
        engine = load_draft(tier.placed_engine, target_model, progress)
    make_ready_for_grammars(engine, role)
    return engine


def make_ready_for_grammars(engine: Engine, role: str) -> None:
    """Read the vocabulary now: a large one takes seconds, during which the thread holds the GIL."""
    try:
        engine.prepare(
            OpenCall("warm-up", SamplingTransform(grammar=Grammar(GrammarKind.REGEX, "a")), max_len=1)
        )
    except AdasdError as error:
        log.warning("the %s model cannot follow grammars: %s", role, error)
