"""Where replicas may run: a tier's requirements as Ray options, and what a cluster lacks to meet them.

Pure functions; they know neither Ray Serve nor a running cluster. ``resources`` have Ray's own names:
``CPU``, ``GPU``, ``accelerator_type:L4`` and the custom ones that a node was started with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.config import ServeConfig, TierConfig

ORCHESTRATOR_CPUS = 0.1
"""Ray CPUs of one orchestrator replica: above 0, so that it is never placed on a node that offers no CPU."""
METRICS_CPUS = 0.01
"""Ray CPUs of the snapshot store, for the same reason."""


@dataclass(frozen=True, slots=True)
class Node:
    """The total resources and the labels of one Ray node."""

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]


def actor_options(tier: TierConfig) -> dict[str, Any]:
    """``ray_actor_options`` of one replica."""
    options: dict[str, Any] = {"num_cpus": tier.num_cpus, "num_gpus": tier.num_gpus}
    if tier.accelerator_type:
        options["accelerator_type"] = tier.accelerator_type
    if tier.resources:
        options["resources"] = dict(tier.resources)
    if tier.label_selector:
        options["label_selector"] = dict(tier.label_selector)
    return options


def placement_group(tier: TierConfig) -> dict[str, Any]:
    """Serve's options for a replica with several GPUs: all on one node, reserved together or not at all."""
    if tier.engine.num_devices == 1:
        return {}
    wishes = {"placement_group_bundles": [demand(tier)], "placement_group_strategy": "STRICT_PACK"}
    if tier.label_selector:
        wishes["placement_group_bundle_label_selector"] = [dict(tier.label_selector)]
    return wishes


def gateway_options(config: ServeConfig, num_cpus: float) -> dict[str, Any]:
    """``ray_actor_options`` of a replica that serves clients, not models."""
    labels = dict(config.orchestrator.label_selector)
    return {"num_cpus": num_cpus, **({"label_selector": labels} if labels else {})}


def demand(tier: TierConfig) -> dict[str, float]:
    """Ray resources that one replica reserves."""
    wanted = {"CPU": tier.num_cpus, "GPU": tier.num_gpus, **dict(tier.resources)}
    if tier.accelerator_type:
        wanted[f"accelerator_type:{tier.accelerator_type}"] = 0.001  # the amount that Ray itself reserves
    return {name: amount for name, amount in wanted.items() if amount > 0}


def num_cpus(config: ServeConfig) -> float:
    """Ray CPUs that the deployment needs at minimum."""
    tiers = sum(tier.num_cpus * tier.min_replicas for tier in config.tiers.values())
    return config.orchestrator.replicas * ORCHESTRATOR_CPUS + METRICS_CPUS + tiers


def missing(config: ServeConfig, nodes: Sequence[Node]) -> list[str]:
    """One sentence per tier whose ``min_replicas`` do not fit on these nodes; empty if all do.

    Tiers are placed one after the other, first fit, so that two tiers that need the same GPU are noticed.
    """
    free = [dict(node.resources) for node in nodes]
    problems = []
    for role, tier in config.tiers.items():
        placed = _place(tier, nodes, free)
        if placed < tier.min_replicas:
            problems.append(_sentence(role, tier, placed, nodes))
    return problems


def _place(tier: TierConfig, nodes: Sequence[Node], free: list[dict[str, float]]) -> int:
    """Reserve as many of the tier's replicas as fit; returns their number."""
    wanted = demand(tier)
    for placed in range(tier.min_replicas):
        for node, left in zip(nodes, free, strict=True):
            if _labels_fit(tier, node) and all(left.get(name, 0.0) >= n for name, n in wanted.items()):
                for name, amount in wanted.items():
                    left[name] -= amount
                break
        else:
            return placed
    return tier.min_replicas


def _labels_fit(tier: TierConfig, node: Node) -> bool:
    return all(matches(node.labels.get(key), wanted) for key, wanted in tier.label_selector)


def matches(actual: str | None, wanted: str) -> bool:
    """Whether a label matches one of Ray's selectors: ``x``, ``!x``, ``in(a,b)``, ``!in(a,b)``."""
    negated, wanted = wanted.startswith("!"), wanted.removeprefix("!")
    inside = wanted.removeprefix("in(").removesuffix(")") if wanted.startswith("in(") else wanted
    return (actual in [part.strip() for part in inside.split(",")]) is not negated


def _sentence(role: str, tier: TierConfig, placed: int, nodes: Sequence[Node]) -> str:
    wishes = ", ".join([f"{amount:g} {name}" for name, amount in demand(tier).items()] or ["nothing"])
    labels = "".join(f", label {key}={value}" for key, value in tier.label_selector)
    lacks = "; ".join(_lacks(tier, nodes)) or "each node is too small or already taken"
    return (
        f"{role}: {placed} of {tier.min_replicas} replicas can be placed; one needs {wishes}{labels} "
        f"on one node ({lacks})"
    )


def _lacks(tier: TierConfig, nodes: Sequence[Node]) -> Iterator[str]:
    """Requirements that no single node meets."""
    for name, amount in demand(tier).items():
        most = max((node.resources.get(name, 0.0) for node in nodes), default=0.0)
        if most < amount:
            yield f"no node has {amount:g} {name}, the most is {most:g}"
    for key, wanted in tier.label_selector:
        if not any(matches(node.labels.get(key), wanted) for node in nodes):
            found = sorted({node.labels[key] for node in nodes if key in node.labels})
            yield f"no node is labelled {key}={wanted}, found: {', '.join(found) or 'none'}"
