"""FLy: a mismatch is accepted if the target is uncertain and the tokens after it match again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adasd.config import setting
from adasd.methods.inputs import BatchInputs, BlockInputs
from adasd.methods.policy import AcceptanceMethod, Bounds, RoundOutlook, Stateless
from adasd.methods.registry import register_acceptance
from adasd.rounds import Params

if TYPE_CHECKING:
    from torch import Tensor


@register_acceptance
@dataclass(frozen=True, slots=True)
class Fly(Stateless, AcceptanceMethod[None]):
    """Accept iff H(p) >= min_entropy and each of the next ``window`` drafted tokens passes the exact test.

    A token whose window reaches beyond the block is rejected. Later tokens decide on a token, so each relaxed token
    costs 1 of max_distortion. The window is the published one; we have not seen the published entropy gate, ours is
    one nat.
    """

    window: int = setting(6, "tokens that have to agree behind the mismatch", low=0, high=256)
    min_entropy: float = setting(
        1.0, "nats of the target's distribution from which it counts as uncertain", low=0
    )
    name: ClassVar[str] = "fly"
    summary: ClassVar[str] = "accepts where the target is uncertain and the next 6 tokens agree again"
    source: ClassVar[str] = "FLy, arXiv:2511.22972"
    rule_params: ClassVar[Mapping[str, Bounds]] = {
        "window": Bounds(0, 256),
        "min_entropy": Bounds(0, math.inf),
    }
    costs_whole_tokens: ClassVar[bool] = True

    def decide(self, state: None, outlook: RoundOutlook) -> Params | None:
        return {"window": float(self.window), "min_entropy": self.min_entropy}

    @staticmethod
    def chance(at: BatchInputs, ids_GKN: Tensor) -> Tensor:
        agrees_GK = (at.exact_ok_GK & (at.place_K < at.lens_G[:, None])).long()
        agreed_GK = agrees_GK.cumsum(dim=1)  # tokens that agree, up to and including each position
        window_G1 = at.number("window")[..., 0].long()
        end_GK = at.place_K + window_G1
        is_whole_GK = end_GK < at.lens_G[:, None]
        last_GK = end_GK.clamp_max(max(agrees_GK.shape[1] - 1, 0))
        all_agree_GK = agreed_GK.gather(1, last_GK) - agreed_GK == window_G1
        return (
            (at.entropy_GK1 >= at.number("min_entropy")) & (is_whole_GK & all_agree_GK)[..., None]
        ).float()

    @staticmethod
    def reference_chance(block: BlockInputs, i: int, token: int) -> float:
        behind = range(i + 1, i + 1 + int(block.number("window")))
        is_whole = behind.stop <= len(block.tokens)
        is_uncertain = block.entropy(i) >= block.number("min_entropy")
        return float(is_uncertain and is_whole and all(block.exact_ok(j) for j in behind))
