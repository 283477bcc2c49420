"""The orchestrator as a Ray Serve deployment: HTTP server, public gRPC server and runners in one replica.

docs/adr/0001 says why they share a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from ray import serve
from ray.serve.handle import DeploymentHandle

from adasd.engine.loading.checkpoint import load_config
from adasd.engine.loading.context import resolve_max_context
from adasd.errors import RateLimited
from adasd.text.tokenizer import Tokenizer
from services.config import ApiKey, ServeConfig
from services.gateway.auth.key_ring import KeyRing
from services.gateway.grpc.door import GrpcDoor, start_grpc
from services.gateway.http.routes import GatewaySettings, create_app
from services.observability.disk import log_disk_shortage
from services.observability.instrumentation import InstrumentedBackend
from services.observability.logs import configure, log_answer
from services.observability.metrics import ServiceMetrics
from services.observability.process import ProcessCollector
from services.observability.reporter import HandleLink, Reporter
from services.observability.service_events import Observer, to_all
from services.observability.tracing import RequestTraces, provider
from services.orchestrator.audit import Auditor
from services.orchestrator.backend import OrchestratorBackend
from services.orchestrator.hedged_leases import HedgedLeaseClient
from services.orchestrator.held_leases import LeaseStream
from services.orchestrator.peers import OrchestratorPeers
from services.orchestrator.placement import LeasePlacement, Tier
from services.orchestrator.readiness import Prober, Readings
from services.orchestrator.sampling_defaults import sampling_defaults
from services.orchestrator.shared_uses import SharedUses, is_limited
from services.replica import replica_name
from services.transport.link_pool import LinkPool
from services.transport.poller import take_all_events

log = logging.getLogger(__name__)

take_all_events()  # before Serve makes a server in this process

Handle = DeploymentHandle[Any]

DRAFT_CALL_TIMEOUT_S = 20.0
"""A draft that has not answered a call by then counts as lost, not late."""


class ServeLeaseClient:
    """Opens leases on one tier's Serve handle, over Serve's gRPC transport (see placement)."""

    def __init__(self, handle: Handle) -> None:
        self._lease = handle.options(method_name="lease", stream=True, _by_reference=False)

    def __call__(self, session: str) -> LeaseStream:
        return ServeLease(self._lease.remote(session))


class ServeLease:
    """A lease as a stream of Serve's (placement.LeaseStream)."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __anext__(self) -> dict[str, Any]:
        grant: dict[str, Any] = await self._stream.__anext__()
        return grant

    def cancel(self) -> None:
        """End the lease, or the search for a replica.

        Serve 2.60 by itself forgets a call that a replica has taken but nobody has awaited since: a slot for minutes.
        """
        self._stream.cancel()
        sent = self._stream._replica_result_future
        if sent.done() and not sent.cancelled() and sent.exception() is None:
            sent.result().cancel()


class OwnReplicas:
    """Reaches every orchestrator replica of this application, using Serve's list of them."""

    def __init__(self) -> None:
        self._handle: Handle | None = None

    async def abort(self, request_ids: tuple[str, ...]) -> list[object]:
        """Every replica's reply to ``abort_here``, including this one's."""
        if self._handle is None:
            me = serve.get_replica_context()
            self._handle = serve.get_deployment_handle(me.deployment, me.app_name)
        answers = self._handle.broadcast("abort_here", request_ids)
        return list(await answers.results_async(return_exceptions=True))


def request_traces(config: ServeConfig) -> RequestTraces | None:
    """None unless traces are on."""
    if not config.traces.is_on:
        return None
    return RequestTraces(provider(config.traces, "orchestrator", replica_name()), config.model_name)


class StoreLink:
    """A SharedStoreLink over the Serve handle of SharedStoreDeployment."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    async def take(self, key: ApiKey, num: int, holder: str) -> RateLimited | None:
        refusal: RateLimited | None = await self._handle.take.remote(key, num, holder)
        return refusal

    async def give_back(self, name: str, num: int, holder: str, begun: bool) -> None:
        await self._handle.give_back.remote(name, num, holder, begun)

    async def hear(self, holder: str, running: Mapping[str, int]) -> None:
        await self._handle.hear.remote(holder, running)


def shared_uses(config: ServeConfig, store: Handle | None) -> SharedUses | None:
    """None where one replica sees every request, or no key has a limit."""
    num_replicas = config.orchestrator.replicas
    if store is None or num_replicas == 1 or not any(map(is_limited, config.api_keys)):
        return None
    return SharedUses(StoreLink(store), replica_name(), config.api_keys, num_replicas)


@serve.ingress()
class Orchestrator:
    """One replica. Serve awaits ``__init__``, then gets the app, and awaits ``__del__`` after draining."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        config: ServeConfig,
        target: Handle,
        drafts: Mapping[str, Handle],
        snapshots: Handle | None = None,
    ) -> None:
        configure(config.log)
        self.config = config
        model = config.target.engine
        tokenizer = await asyncio.to_thread(
            Tokenizer.load,
            model.model,
            trust_remote_code=model.trust_remote_code,
            control_tokens_in_content=config.control_tokens_in_content,
        )
        model_config = await asyncio.to_thread(load_config, model.model, model.trust_remote_code)
        recommended = config.generation_config == "auto"
        defaults = await asyncio.to_thread(sampling_defaults, model.model) if recommended else {}
        self.links = LinkPool(tls=config.worker_tls)
        self.traces = request_traces(config)
        tiers = (
            Tier("target", HedgedLeaseClient(ServeLeaseClient(target)), config.verify_timeout_s),
            {
                name: Tier("draft", ServeLeaseClient(handle), DRAFT_CALL_TIMEOUT_S)
                for name, handle in drafts.items()
            },
            self.links,
            config.admission_timeout_s,
        )
        headers = self.traces.carrier if self.traces else None
        self.placement = placement = LeasePlacement(*tiers, headers)
        probed = LeasePlacement(*tiers, keep_s=0.0)  # a probe goes all the way, and leaves no lease behind
        readings = Readings(has_draft=bool(drafts))
        context_len = resolve_max_context(model_config, model.max_context)
        registry = CollectorRegistry()
        registry.register(ProcessCollector())
        max_draft_tokens = config.speculation.max_draft_tokens
        metrics = ServiceMetrics(registry, config.model_name, context_len, max_draft_tokens)
        observers: list[Observer] = [metrics, log_answer, *([self.traces] if self.traces else [])]
        self.auditor: Auditor | None = None
        if config.audit_share:
            self.auditor = Auditor(
                placement, tokenizer.eos_ids, config.audit_share, self.has_slots_to_spare, metrics
            )
            self.auditor.start()
            observers.append(self.auditor)
        self.tell = to_all(*observers)
        backend = OrchestratorBackend(
            config, tokenizer, context_len, placement, readings, self.tell, defaults
        )
        placement.on_target = probed.on_target = backend.learn
        self.orchestrator, self.backend = backend, InstrumentedBackend(backend, self.tell)
        link = HandleLink(snapshots) if snapshots else None
        self.reporter = Reporter(registry, replica_name(), "orchestrator", link)
        self.reporter.start()
        self.uses = shared_uses(config, snapshots)
        self.keys = KeyRing(config.api_keys, self.uses)
        if self.uses is not None:
            self.uses.start(self.keys.all_running)
        may_sleep = any(tier.min_replicas == 0 for tier in config.draft_tiers.values())
        prober = Prober(
            probed,
            readings,
            may_sleep=may_sleep,
            holds_draft=lambda: placement.holds_draft,
            shortage=log_disk_shortage,
        )
        self.prober = asyncio.get_running_loop().create_task(prober.run())
        self.grpc: GrpcDoor | None = None
        if config.grpc_port:
            self.grpc = await start_grpc(
                self.backend,
                config.host,
                config.grpc_port,
                config.max_body_bytes,
                self.keys,
                self.tell,
                OrchestratorPeers(OwnReplicas().abort, self.reporter.all_snapshots),
                config.tls,
            )
        self.settings = GatewaySettings(config.max_body_bytes, config.cors_origins, answer_request_ids=False)
        self.is_shut_down = False

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self.backend, self.settings, self.reporter.scrape, self.tell, self.keys)

    def check_health(self) -> None:
        """Raises if the prober died; Serve then replaces this replica."""
        if self.prober.done() and not self.is_shut_down:
            raise RuntimeError("the readiness prober of this orchestrator ended") from self.prober.exception()

    async def abort_here(self, request_ids: tuple[str, ...]) -> tuple[str, ...]:
        """Stop the gRPC answers among these that run in this replica; returns them. Called by every replica's Abort."""
        return self.grpc.abort_here(request_ids) if self.grpc is not None else ()

    def has_slots_to_spare(self) -> bool:
        """Whether an audit may take a target slot: nothing is queued, and half of the guaranteed slots are free."""
        return (
            self.orchestrator.queue.num_queued == 0 and 2 * self.num_running() <= self.config.guaranteed_slots
        )

    def num_running(self) -> int:
        """Answers in progress."""
        return self.backend.num_running

    async def shutdown(self) -> None:
        """Refuse new gRPC calls, let running answers end, then release all resources. Idempotent."""
        self.is_shut_down = True
        if self.grpc is not None:
            # Serve does not know this server's streams, so its own drain has not waited for them.
            await self.grpc.stop(self.config.request_timeout_s)
        self.prober.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.prober
        if self.auditor is not None:
            await self.auditor.stop()
        await self.reporter.stop()
        if self.uses is not None:
            await self.uses.stop()
        self.placement.close()
        await self.links.close()
        if self.traces is not None:
            await asyncio.to_thread(self.traces.shutdown)

    async def __del__(self) -> None:
        # A plain function that returns the coroutine is not enough: Serve's ingress wrapper would drop it.
        if not getattr(self, "is_shut_down", True):
            await self.shutdown()
