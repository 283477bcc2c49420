"""The pod groups that a topology needs: tiers with the same requirements share one, and the gateway has its own.

Pure functions. A tier without requirements and without a GPU runs in the gateway's pods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from adasd.errors import ConfigError
from cluster.k8s.facts import Facts, Gateways
from cluster.topology import METRICS_CPUS, ORCHESTRATOR_CPUS
from services.config import ServeConfig, TierConfig

GATEWAY = "gateway"
POOL = "pool"
"""The label of Ray nodes that orchestrators select."""


@dataclass(frozen=True, slots=True)
class PodGroup:
    """Identical pods. Each holds one replica of every tier in ``tiers`` (or as many as share its GPUs)."""

    name: str
    tiers: tuple[tuple[str, TierConfig], ...]
    min_pods: int
    max_pods: int
    num_cpus: int  # Ray CPUs of a pod
    num_gpus: int  # GPUs of a pod
    labels: dict[str, str]  # of the Ray node
    resources: dict[str, float]  # other Ray resources of a pod


def gateways_of(config: ServeConfig, facts: Facts) -> Gateways:
    """The bounds of the orchestrators: those of the cluster file, else as many as the topology asks for."""
    num = config.orchestrator.replicas
    return facts.gateways or Gateways(min=num, max=num)


def groups_of(config: ServeConfig, facts: Facts) -> list[PodGroup]:
    """The groups, gateway first. ConfigError for an unknown group in ``facts``, or a tier in the gateway's pool."""
    by_wishes: dict[object, list[tuple[str, TierConfig]]] = {}
    for role, tier in config.tiers.items():
        by_wishes.setdefault(_wishes(tier), []).append((role, tier))
    beside_gateway = by_wishes.pop(None, [])
    groups = [_gateway(beside_gateway, gateways_of(config, facts))]
    for members in by_wishes.values():
        name = _name(members)
        if name in (group.name for group in groups):  # of the drafts, two groups may ask for it
            name = members[0][0]
        groups.append(_group(name, members))
    if unknown := set(facts.pods) - {group.name for group in groups}:
        known = ", ".join(group.name for group in groups)
        raise ConfigError(f"pods: there is no group {sorted(unknown)[0]!r}; this topology has {known}")
    return groups


def _name(members: Sequence[tuple[str, TierConfig]]) -> str:
    """Its tier; ``draft`` if several drafts share the group, ``pair`` if the target is among them."""
    roles = [role for role, _ in members]
    return roles[0] if len(roles) == 1 else "pair" if "target" in roles else "draft"


def _wishes(tier: TierConfig) -> object:
    """The key that decides where a tier may run; None without requirements."""
    names = tuple(name for name, _ in tier.resources)
    wishes = (tier.label_selector, tier.accelerator_type, names, tier.num_gpus > 0)
    return None if wishes == ((), None, (), False) else wishes


def _gateway(members: Sequence[tuple[str, TierConfig]], gateways: Gateways) -> PodGroup:
    """ConfigError for tiers that would add pods without an orchestrator: those would never be ready."""
    problems = [
        f"{role}: up to {tier.max_replicas} replicas would share pods with the orchestrators, of which only "
        f"{gateways.min} always run; give them pods of their own by a label_selector, for example {{pool: {role}}}, "
        f"or set gateways.min to {tier.max_replicas} in the file of --cluster"
        for role, tier in members
        if tier.max_replicas > gateways.min
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    num_cpus = math.ceil(ORCHESTRATOR_CPUS + METRICS_CPUS + sum(tier.num_cpus for _, tier in members))
    return PodGroup(GATEWAY, tuple(members), gateways.min, gateways.max, num_cpus, 0, {POOL: GATEWAY}, {})


def _group(name: str, members: Sequence[tuple[str, TierConfig]]) -> PodGroup:
    num_gpus = math.ceil(round(sum(tier.num_gpus for _, tier in members), 6))
    per_pod = 1  # replicas of each tier
    if len(members) == 1 and 0 < members[0][1].num_gpus < 1:
        per_pod = math.floor(1 / members[0][1].num_gpus + 1e-6)
    labels: dict[str, str] = {}
    resources: dict[str, float] = {}
    for role, tier in members:
        for key, selector in tier.label_selector:
            if (value := label_for(selector)) is not None:
                labels[key] = value
        for resource, amount in tier.resources:
            resources[resource] = resources.get(resource, 0.0) + amount * per_pod
        if tier.accelerator_type:
            resources[f"accelerator_type:{tier.accelerator_type}"] = 1.0
        if labels.get(POOL) == GATEWAY:
            raise ConfigError(f"{role}.label_selector asks for pool=gateway, which is the orchestrators' own")
    return PodGroup(
        name,
        tuple(members),
        math.ceil(max(tier.min_replicas for _, tier in members) / per_pod),
        math.ceil(max(tier.max_replicas for _, tier in members) / per_pod),
        max(1, math.ceil(per_pod * sum(tier.num_cpus for _, tier in members))),
        num_gpus,
        labels,
        resources,
    )


def label_for(selector: str) -> str | None:
    """A label that a selector accepts: ``x`` for ``x``, ``a`` for ``in(a,b)``, None for a negated one."""
    if selector.startswith("!"):
        return None
    return selector.removeprefix("in(").removesuffix(")").split(",")[0].strip()
