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
ACCELERATOR_SHARE = 0.001
"""What Ray reserves of a node's accelerator type per actor."""
METRICS_CPUS = 0.01
"""Ray CPUs of the snapshot store, for the same reason."""
ROUNDING = 1e-9
"""What sums of shares may be off: 1 - 0.8 is less than 0.2."""


@dataclass(frozen=True, slots=True)
class Node:
    """The total resources and the labels of one Ray node."""

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]


def actor_options(tier: TierConfig) -> dict[str, Any]:
    """``ray_actor_options`` of one replica; of several ranks, those of rank 0."""
    options: dict[str, Any] = dict(tier.resources_per_rank)
    if tier.accelerator_type:
        options["accelerator_type"] = tier.accelerator_type
    if tier.resources:
        options["resources"] = dict(tier.resources)
    if tier.label_selector:
        options["label_selector"] = dict(tier.label_selector)
    return options


def placement_group(tier: TierConfig) -> dict[str, Any]:
    """Serve's options for a replica of several ranks: a bundle for each, all on one node, reserved together."""
    num = tier.engine.tensor_parallel
    if num == 1:
        return {}
    each = {"CPU": tier.num_cpus / num, "GPU": tier.num_gpus / num}
    if tier.accelerator_type:
        each[f"accelerator_type:{tier.accelerator_type}"] = ACCELERATOR_SHARE
    each = {name: amount for name, amount in each.items() if amount > 0}
    wishes: dict[str, Any] = {
        "placement_group_bundles": [{**each, **dict(tier.resources)}, *[each] * (num - 1)],
        "placement_group_strategy": "STRICT_PACK",
    }
    if tier.label_selector:
        wishes["placement_group_bundle_label_selector"] = [dict(tier.label_selector)] * num
    return wishes


def gateway_options(config: ServeConfig, num_cpus: float) -> dict[str, Any]:
    """``ray_actor_options`` of a replica that serves clients, not models."""
    labels = dict(config.orchestrator.label_selector)
    return {"num_cpus": num_cpus, **({"label_selector": labels} if labels else {})}


def demand(tier: TierConfig) -> dict[str, float]:
    """Ray resources that one replica reserves."""
    wanted = {"CPU": tier.num_cpus, "GPU": tier.num_gpus, **dict(tier.resources)}
    if tier.accelerator_type:
        wanted[f"accelerator_type:{tier.accelerator_type}"] = ACCELERATOR_SHARE
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
        if sentence := too_many_ranks(
            role, tier, max((node.resources.get("CPU", 0.0) for node in nodes), default=0.0)
        ):
            problems.append(sentence)
        placed = _place(tier, nodes, free)
        if placed < tier.min_replicas:
            problems.append(_sentence(role, tier, placed, nodes))
    return problems


def too_many_ranks(role: str, tier: TierConfig, most_cpus: float) -> str | None:
    """Why the ranks of a tier on CPUs, each a busy process, outnumber the CPUs of a node; None if they do not."""
    num = tier.engine.tensor_parallel
    if num == 1 or tier.num_gpus > 0 or num <= most_cpus:
        return None
    return (
        f"{role}: tensor_parallel is {num}, but no node has more than {most_cpus:g} CPUs, and each rank takes one; "
        f"set it to {max(1, int(most_cpus))} or less"
    )


def _place(tier: TierConfig, nodes: Sequence[Node], free: list[dict[str, float]]) -> int:
    """Reserve as many of the tier's replicas as fit; returns their number."""
    wanted = demand(tier)
    for placed in range(tier.min_replicas):
        for node, left in zip(nodes, free, strict=True):
            if _labels_fit(tier, node) and _has(left, wanted):
                for name, amount in wanted.items():
                    left[name] -= amount
                break
        else:
            return placed
    return tier.min_replicas


def _has(left: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return all(left.get(name, 0.0) >= amount - ROUNDING for name, amount in wanted.items())


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
