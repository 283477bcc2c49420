"""Memory of GPUs: how much cards have, which replicas share one, and what does not fit. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from adasd.config import EngineConfig
from services.config import ServeConfig, TierConfig

if TYPE_CHECKING:
    from adasd.engine.loading.memory import MemoryEstimate

GIB = 1024**3

CARD_GIB: Mapping[str, float] = MappingProxyType(
    {
        "T4": 14.6,
        "V100-16GB": 15.8,
        "V100": 15.8,
        "L4": 22.0,
        "A10G": 22.0,
        "A10": 22.0,
        "A100-40GB": 39.4,
        "A100-80GB": 79.2,
        "A100": 39.4,
        "L40S": 44.4,
        "L40": 44.4,
        "A40": 44.4,
        "RTX-6000-ADA": 47.4,
        "H100": 79.2,
        "H200": 139.8,
        "B200": 178.3,
    }
)
"""Memory that programs can use, in GiB: a little less than what a card is sold with. More exact names come first."""


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU and the replicas that it holds, each by the name of its deployment."""

    roles: tuple[str, ...]
    num_bytes: int | None  # memory; None: unknown
    name: str


def card_bytes(name: str) -> int | None:
    """Memory of a card by Ray's accelerator type or NVIDIA's product label; None if it is not known."""
    words = re.sub(r"[^A-Z0-9]+", "-", name.upper())
    if found := re.search(r"(?<![0-9])(\d{2,3})GB?(?![0-9A-Z])", words):
        return int(float(found.group(1)) * 0.985 * GIB)
    for card, gib in CARD_GIB.items():
        if re.search(rf"(?<![A-Z0-9]){card}(?![A-Z0-9])", words):
            return int(gib * GIB)
    return None


def cards_of(config: ServeConfig, known: Mapping[str, tuple[str, int | None]] | None = None) -> list[Card]:
    """One card of every kind that the deployment uses.

    Replicas with less than a whole GPU and the same wishes share a card, in the order of the tiers.
    ``known``: name and memory of the card of a tier; by default its accelerator type says so.
    """
    groups: dict[object, list[tuple[str, TierConfig]]] = {}
    for role, tier in config.tiers.items():
        if tier.placed_engine.device.startswith("cuda"):
            shares = 0 < tier.num_gpus < 1
            wishes = (tier.accelerator_type, tier.label_selector, tier.resources) if shares else role
            groups.setdefault(wishes, []).append((role, tier))
    found = []
    for members in groups.values():
        role, tier = members[0]
        kind = tier.accelerator_type
        name, num_bytes = (known or {}).get(role) or (kind or "its card", card_bytes(kind) if kind else None)
        found += [Card(roles, num_bytes, name) for roles in _packed(members)]
    return found


def _packed(members: list[tuple[str, TierConfig]]) -> Iterator[tuple[str, ...]]:
    """The replicas on each distinct card: as many as its GPU shares allow, one of each tier first."""
    waiting = dict(members)
    while waiting:
        roles: list[str] = []
        left = 1.0
        for role, tier in waiting.items():
            if tier.num_gpus <= left + 1e-6 or not roles:
                roles.append(role)
                left -= tier.num_gpus
        for role in dict.fromkeys(roles):
            tier = waiting.pop(role)
            more = min(tier.max_replicas - 1, int((left + 1e-6) / tier.num_gpus)) if tier.num_gpus < 1 else 0
            roles += [role] * max(0, more)
            left -= max(0, more) * tier.num_gpus
        yield tuple(sorted(roles, key=[role for role, _ in members].index))


def too_small(
    card: Card, estimates: Mapping[str, MemoryEstimate], engines: Mapping[str, EngineConfig]
) -> str | None:
    """Why the card does not hold its replicas, in one sentence; None if it does, or if its memory is not known."""
    if card.num_bytes is None:
        return None
    for role in dict.fromkeys(card.roles):
        if sentence := _beyond_its_share(role, card, card.num_bytes, estimates[role], engines[role]):
            return sentence
    needed = sum(_least_per_card(estimates[role], engines[role]) for role in card.roles)
    names = " and ".join(dict.fromkeys(card.roles))
    if needed > card.num_bytes:
        parts = ", ".join(
            f"{role}: {said(estimates[role], engines[role], card.num_bytes)}" for role in card.roles
        )
        slots = _slots_that_fit(card, estimates, engines)
        todo = f"set num_slots to {slots} or less" if slots else "choose a smaller model or a larger card"
        return (
            f"{names} take {needed / GIB:.1f} GiB of {card.name}, which has {card.num_bytes / GIB:.1f} GiB "
            f"({parts}); {todo}, or lower max_context"
        )
    taken = sum(_per_card(estimates[role], engines[role], card.num_bytes) for role in card.roles)
    if taken > card.num_bytes:
        shares = " + ".join(f"{estimates[role].gpu_share:g}" for role in card.roles)
        return (
            f"{names} share {card.name} of {card.num_bytes / GIB:.1f} GiB and would take {taken / GIB:.1f} GiB, as "
            f"their gpu_memory_utilization is {shares}; lower it to at most 1 in all, or set cache_bytes"
        )
    return None


def _beyond_its_share(
    role: str, card: Card, num_bytes: int, estimate: MemoryEstimate, engine: EngineConfig
) -> str | None:
    """Why the part of the card that ``gpu_memory_utilization`` grants holds no single session; None if it does."""
    granted = num_bytes * estimate.gpu_share
    needed = _least_per_card(estimate, engine)
    if estimate.least_cache_bytes is None or needed <= granted:
        return None
    return (
        f"{role} takes at least {needed / GIB:.1f} GiB of {card.name} ({estimate.weights_bytes / GIB:.1f} GiB weights "
        f"+ {estimate.least_cache_bytes / GIB:.1f} GiB cache for one session + {estimate.reserve_bytes / GIB:.1f} GiB "
        f"reserve{_over(engine)}), but gpu_memory_utilization {estimate.gpu_share:g} grants {granted / GIB:.1f} of "
        f"{num_bytes / GIB:.1f} GiB; choose a smaller model or a larger card, raise gpu_memory_utilization, or lower "
        "max_context"
    )


def _least_per_card(estimate: MemoryEstimate, engine: EngineConfig) -> int:
    """Bytes that a replica cannot do without on each of the cards that it is spread over."""
    return -(-estimate.least_bytes // engine.tensor_parallel)


def _per_card(estimate: MemoryEstimate, engine: EngineConfig, num_bytes: int) -> int:
    """Bytes that a replica takes on each of its cards, which have ``num_bytes`` each."""
    cache = estimate.cache_bytes_on(num_bytes * engine.tensor_parallel)
    return -(-(estimate.weights_bytes + cache + estimate.reserve_bytes) // engine.tensor_parallel)


def said(estimate: MemoryEstimate, engine: EngineConfig, card_bytes: int | None = None) -> str:
    """``61.0 GiB weights + 8.3 GiB cache + 2.0 GiB reserve``, over all cards of a replica of ``card_bytes`` each.

    Where not all sessions find room at full length, the cache says how many do.
    """
    num_bytes = None if card_bytes is None else card_bytes * engine.tensor_parallel
    cache = estimate.cache_bytes_on(num_bytes)
    full = cache // estimate.bytes_per_slot
    holds = f" ({full} of {estimate.num_slots} sessions of {estimate.max_context} tokens)"
    return (
        f"{estimate.weights_bytes / GIB:.1f} GiB weights + {cache / GIB:.1f} GiB cache"
        f"{holds if full < estimate.num_slots else ''} + {estimate.reserve_bytes / GIB:.1f} GiB reserve{_over(engine)}"
    )


def _over(engine: EngineConfig) -> str:
    return f" over {engine.tensor_parallel} cards" if engine.tensor_parallel > 1 else ""


def _slots_that_fit(
    card: Card, estimates: Mapping[str, MemoryEstimate], engines: Mapping[str, EngineConfig]
) -> int:
    """Slots of the first tier with which everything fits; 0 if there is no such number."""
    first, *others = card.roles
    estimate, tensor_parallel = estimates[first], engines[first].tensor_parallel
    assert card.num_bytes is not None
    left = card.num_bytes - sum(_least_per_card(estimates[role], engines[role]) for role in others)
    left -= (estimate.weights_bytes + estimate.reserve_bytes) // tensor_parallel
    return max(0, left * tensor_parallel // estimate.bytes_per_slot)
