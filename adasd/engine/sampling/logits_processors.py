"""What a session's own text does to its logits: penalties and grammar, position by position, on draft and target.

Shape letters: N positions of a pass, J of them of one session, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adasd.engine.sampling.logits_state import LogitsState
from adasd.engine.work import DraftWork, StepInput, Work
from adasd.errors import AdasdError, InvalidRequest
from adasd.specdec.penalties import penalise
from adasd.text.grammar import Mask


@dataclass(frozen=True, slots=True)
class Positions:
    """A session's positions whose distributions are wanted, and what leads to them."""

    work: Work
    input: StepInput  # fed in this pass; the last position is the one behind it
    span: slice  # among the logits

    @property
    def logits_state(self) -> LogitsState | None:
        return self.work.slot.logits_state


def process(wanted: Mapping[int, Positions], logits_NV: Tensor) -> tuple[Tensor, dict[int, AdasdError]]:
    """Float32 logits with penalties applied and what grammars forbid at minus infinity.

    The logits as they came if no session has a state. Beside them, by key of ``wanted``, why a session cannot go on.
    """
    if all(one.logits_state is None for one in wanted.values()):
        return logits_NV, {}
    processed_NV = logits_NV.to(torch.float32, copy=True)
    errors: dict[int, AdasdError] = {}
    for i, one in wanted.items():
        if one.logits_state is not None:
            try:
                _process_one(one, one.logits_state, processed_NV[one.span])
            except AdasdError as error:
                errors[i] = error
    return processed_NV, errors


def _process_one(one: Positions, state: LogitsState, logits_JV: Tensor) -> None:
    """In place."""
    tokens, num_positions = one.input.tokens, len(logits_JV)
    seen = state.seen(tokens, num_positions)
    if seen is not None:
        penalise(logits_JV, seen, one.work.transform)
    masks = state.masks(tokens, num_positions)
    for logits_V, mask in zip(logits_JV[num_positions - len(masks) :], masks, strict=True):
        _forbid(logits_V, mask, drafts=isinstance(one.work, DraftWork))


def _forbid(logits_V: Tensor, mask: Mask, drafts: bool) -> None:
    """What the mask does not allow goes to minus infinity; ids that it does not know are not allowed."""
    num_known = min(len(mask), len(logits_V))
    forbidden = np.ones(len(logits_V), np.bool_)
    np.logical_not(mask[:num_known], out=forbidden[:num_known])
    if forbidden.all():
        if drafts:
            return  # the target knows ids that this model does not; it will correct the guess
        raise InvalidRequest("the grammar leaves no token that the model knows", "grammar")
    logits_V.masked_fill_(torch.from_numpy(forbidden).to(logits_V.device), -torch.inf)
