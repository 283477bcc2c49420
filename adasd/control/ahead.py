"""Whether to draft ahead: while the target judges a block, the draft may go on behind it.

What was drafted ahead is used if the whole block is accepted and the draft's guess at the token behind it is
right. Used, it saves the time of a block as far as that hides behind the verdict; unused, the next block waits
for the step that the draft is in, half a step on average. So it pays iff

    P(used) * min(block_ms, verify_ms)  >  (1 - P(used)) * step_ms / 2
"""

from __future__ import annotations

from adasd.control.estimators import Estimates


def drafting_ahead_pays(estimates: Estimates) -> bool:
    """By what was measured so far; True until there is something to go by."""
    full, length, step_ms = estimates.full.value, estimates.length.value, estimates.draft_ms.value
    verify = estimates.verify_ms.fit()
    if full is None or length is None or step_ms is None or verify is None:
        return True
    used = full * estimates.survival.curve(1)[0]
    block_ms = length * step_ms + (estimates.hop_ms.value or 0.0)
    verify_ms = verify[0] + length * verify[1]
    return used * min(block_ms, verify_ms) > (1 - used) * step_ms / 2
