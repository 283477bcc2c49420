"""Whether to draft ahead: while the target judges a block, the draft may prepare for possible verdicts.

Tokens drafted after the block are used if the whole block is accepted and the draft's guess at the next token is right;
tokens drafted for a rejection, if it comes where the draft expected it, for its second choice. If used, they save the
part of a block's drafting time that overlaps with the verdict; if not, the next block waits for the draft's current
step, half a step on average. So each pays iff

    P(used) * min(block_ms, verify_ms)  >  (1 - P(used)) * step_ms / 2
"""

from __future__ import annotations

from adasd.control.estimators import Estimates


def drafting_ahead_pays(estimates: Estimates) -> bool:
    """By the measurements so far; True without any."""
    full = estimates.full.value
    return full is None or _pays(estimates, full * estimates.survival.curve(1)[0])


def preparing_for_rejection_pays(estimates: Estimates) -> bool:
    """By the measurements so far; True without any."""
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
