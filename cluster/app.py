"""The whole deployment graph: draft replicas, target replicas, and the orchestrator that clients reach.

    clients -- HTTP, gRPC --> orchestrator == leases: Serve handle, rounds: gRPC ==> target (large model)
                                           == leases: Serve handle, rounds: gRPC ==> draft  (small model)

Each tier is a deployment of its own, placed and scaled independently. A lease is one ongoing request of a worker
deployment; hence ``max_ongoing_requests`` is the number of slots. A target accepts a few more, which wait at the
replica: Serve's router notices a free slot only by polling. One more deployment, a single process, holds what all
replicas share.
"""

from __future__ import annotations

import math
from typing import Any

from ray import serve
from ray.serve import Application

from cluster import topology
from cluster.serve_scaling import autoscaling
from services.config import ServeConfig, TierConfig
from services.orchestrator.deployment import Orchestrator
from services.orchestrator.shared_store import SharedStoreDeployment
from services.worker.worker import Worker

OTHER_REQUESTS = 2000
"""Requests besides generations that one orchestrator replica takes: health, models, refusals. The replica itself
refuses excess requests, within milliseconds, so Serve's queue in front of it stays empty and health checks never wait.
"""
BACKLOG = 500
"""Requests that may wait in Serve for a full replica; Serve answers 503 to further ones at once."""


def build(config: ServeConfig, worker_host: str = "127.0.0.1") -> Application:
    """The application that ``serve.run`` deploys; ``worker_host`` is ``host`` of ``Worker``."""
    store = shared_store(config)
    target = replicas_of("target", config.target, config, worker_host, store)
    drafts = {
        source: replicas_of("draft", tier, config, worker_host, store, name)
        for (source, tier), name in zip(config.draft_tiers.items(), list(config.tiers)[1:], strict=True)
    }
    deployed = serve.deployment(
        name="orchestrator",
        num_replicas=config.orchestrator.replicas,
        ray_actor_options=topology.gateway_options(config, topology.ORCHESTRATOR_CPUS),
        max_ongoing_requests=config.max_ongoing_requests + config.queue_len + OTHER_REQUESTS,
        max_queued_requests=BACKLOG,
        graceful_shutdown_timeout_s=config.request_timeout_s,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=5,
        health_check_timeout_s=15,
    )
    return deployed(Orchestrator).bind(config, target, drafts, store)


def shared_store(config: ServeConfig) -> Application:
    """One process for all replicas: it holds the metrics of all, and what API keys have used."""
    deployed = serve.deployment(
        name="metrics",
        num_replicas=1,
        ray_actor_options=topology.gateway_options(config, topology.METRICS_CPUS),
        max_ongoing_requests=1000,
        graceful_shutdown_timeout_s=1,
        graceful_shutdown_wait_loop_s=0.2,
    )
    return deployed(SharedStoreDeployment).bind()


def replicas_of(
    role: str,
    tier: TierConfig,
    config: ServeConfig,
    host: str,
    store: Application,
    name: str | None = None,
) -> Application:
    """Identical replicas of one model; ``name`` of the deployment, if it differs from the role."""
    deployed = serve.deployment(
        name=name or role,
        **scaling(role, tier),
        ray_actor_options=topology.actor_options(tier),
        **topology.placement_group(tier),
        max_ongoing_requests=tier.engine.num_slots + (waiting_per_target(config) if role == "target" else 0),
        graceful_shutdown_timeout_s=config.request_timeout_s,  # a leased session may finish
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=2,
        health_check_timeout_s=15,
    )
    target_model = config.target.engine.model if role == "draft" else None
    return deployed(Worker).bind(
        role,
        tier,
        host,
        target_model,
        lease_timeout_s=config.admission_timeout_s,
        model_name=config.model_name,
        logs=config.log,
        snapshots=store,
        tls=config.worker_tls,
        traces=config.traces,
    )


def waiting_per_target(config: ServeConfig) -> int:
    """Requests that wait at a target replica, not in Serve; few, as no other replica can take them any more."""
    return min(config.queue_len, math.ceil(config.target.engine.num_slots / 8))


def scaling(role: str, tier: TierConfig) -> dict[str, Any]:
    """A fixed number, or autoscaling by the policy of cluster.scaling."""
    if tier.min_replicas == tier.max_replicas:
        return {"num_replicas": tier.min_replicas}
    return {
        "autoscaling_config": autoscaling(
            role,
            tier.engine.num_slots,
            tier.min_replicas,
            tier.max_replicas,
            down_after_s=tier.down_after_s,
        )
    }
