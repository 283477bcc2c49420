"""A small pair and its configuration, for tests of the simulator."""

from __future__ import annotations

from dataclasses import replace

from adasd.config import EngineConfig, SpeculationConfig
from adasd.requests import Mode
from cluster.simulation.costs import Card, Pair, ServiceCosts
from cluster.simulation.curves import PassCurve, curve_of
from services.config import ServeConfig, TierConfig

FREE = ServiceCosts(
    request_ms=0,
    ending_ms=0,
    lease_ms=0,
    first_ms=0,
    call_ms=0,
    worker_ms=0,
    elsewhere_ms=0,
    link_ms=0,
    draft_link_ms=0,
)
"""A service that costs nothing."""


def curve(slower: float, points: dict[int, list[list[float]]]) -> PassCurve:
    """A curve, all of whose times are multiplied."""
    return curve_of({n: [(tokens, slower * ms) for tokens, ms in line] for n, line in points.items()}, "test")


def pair(
    num_slots: int = 8, service: ServiceCosts = FREE, start_up_s: float = 10.0, *, slower: float = 1.0
) -> Pair:
    """A pass of the target takes 20 ms for one session and 24 for eight, a drafted token 2 to 3, times ``slower``."""
    target = curve(slower, {1: [[1, 20], [64, 20], [512, 60]], 8: [[8, 24], [64, 24], [512, 64]]})
    draft = curve(slower, {1: [[1, 2], [512, 20]], 16: [[16, 3], [512, 20]]})
    return Pair(
        Card("large", target, num_slots, cost_per_hour=3.0, start_up_s=start_up_s, beside=draft),
        Card("small", draft, 2 * num_slots, cost_per_hour=0.5, start_up_s=start_up_s),
        service,
    )


def config(
    mode: Mode = Mode.EXACT,
    *,
    targets: tuple[int, int] = (1, 1),
    drafts: tuple[int, int] = (1, 1),
    speculation: SpeculationConfig | None = None,
    down_after_s: float = 60.0,
) -> ServeConfig:
    """A deployment with these least and most replicas."""

    def tier(bounds: tuple[int, int]) -> TierConfig:
        return TierConfig(EngineConfig("any"), *bounds, down_after_s=down_after_s)

    return ServeConfig(
        tier(targets), tier(drafts), speculation=replace(speculation or SpeculationConfig(), mode=mode)
    )
