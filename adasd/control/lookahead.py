"""Whether to draft ahead: while the target judges a block, the draft may prepare for what the verdict may be.

What was drafted behind the block is used if all of it is accepted and the draft's guess at the token behind it is
right; what was drafted for a rejection, if that comes where the draft was most in doubt, for its second choice. Used,
it saves the time of a block as far as that hides behind the verdict; unused, the next block waits for the step that the
draft is in, half a step on average. So either pays iff

    P(used) * min(block_ms, verify_ms)  >  (1 - P(used)) * step_ms / 2
"""

from __future__ import annotations

from adasd.control.estimators import Estimates


def drafting_ahead_pays(estimates: Estimates) -> bool:
    """By what was measured so far; True until there is something to go by."""
    full = estimates.full.value
    return full is None or _pays(estimates, full * estimates.survival.curve(1)[0])


def preparing_for_rejection_pays(estimates: Estimates) -> bool:
    """By what was measured so far; True until there is something to go by."""
    foreseen = estimates.foreseen.value
    return foreseen is None or _pays(estimates, foreseen)


def _pays(estimates: Estimates, used: float) -> bool:
    length, step_ms = estimates.length.value, estimates.draft_ms.value
    verify = estimates.verify_ms.fit()
    if length is None or step_ms is None or verify is None:
        return True
    block_ms = length * step_ms + (estimates.hop_ms.value or 0.0)
    verify_ms = verify[0] + length * verify[1]
    return used * min(block_ms, verify_ms) > (1 - used) * step_ms / 2
