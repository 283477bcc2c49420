"""What a simulated deployment is made of: cards with their passes and prices, and the service's own costs."""

from __future__ import annotations

from dataclasses import dataclass, field

from adasd.config import setting
from cluster.simulation.curves import PassCurve


@dataclass(frozen=True, slots=True)
class Card:
    """One model on one replica's hardware."""

    name: str
    passes: PassCurve
    num_slots: int = 32
    cost_per_hour: float = 0.0  # of a replica, in any currency
    start_up_s: float = 60.0  # from the decision for a replica until it serves
    beside: PassCurve | None = None  # target only: passes of the draft if it runs on the same card
    is_beside: bool = False  # draft only: it shares the card of its target
    source: str = ""  # where the figures come from


@dataclass(frozen=True, slots=True)
class ServiceCosts:
    """What the service costs beside the models; CPU times are of one core."""

    request_ms: float = setting(10.0, "CPU of the orchestrator per request, before its target slot", low=0)
    ending_ms: float = setting(5.0, "CPU of the orchestrator per request behind its last token", low=0)
    lease_ms: float = setting(3.0, "to lease and open a slot, once there is a free one", low=0)
    first_ms: float = setting(10.0, "further wait of each request before its slot, without CPU", low=0)
    call_ms: float = setting(
        0.5, "CPU of the orchestrator per draft or verify call, with its share of the session", low=0
    )
    worker_ms: float = setting(0.17, "CPU of a worker per call, beside its passes", low=0)
    elsewhere_ms: float = setting(
        0.0, "CPU per request of other processes, beside the answer (proxies, clients)", low=0
    )
    link_ms: float = setting(0.05, "one way between orchestrator and target", low=0)
    draft_link_ms: float = setting(0.05, "one way between orchestrator and draft", low=0)
    cores: int = setting(
        0, "cores that everything shares, models included; 0: each process has what it needs", low=0
    )
    background: float = setting(0.0, "threads of other work that always run on that machine", low=0)
    source: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """A target and its draft on their cards."""

    target: Card
    draft: Card | None
    service: ServiceCosts = field(default_factory=ServiceCosts)
