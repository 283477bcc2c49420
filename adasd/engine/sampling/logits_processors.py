"""Applies penalties and grammar, which depend on a session's text, to its logits: on draft and target, per position.

Shape letters: N positions of a pass, J positions of one session, V vocabulary.
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
    """The positions of one session whose distributions are needed, and the input that leads to them."""

    work: Work
    input: StepInput  # fed in this pass; the last logits are for the position after it
    span: slice  # of the logits

    @property
    def logits_state(self) -> LogitsState | None:
        return self.work.slot.logits_state


def process(wanted: Mapping[int, Positions], logits_NV: Tensor) -> tuple[Tensor, dict[int, AdasdError]]:
    """Float32 logits with penalties applied and tokens that grammars forbid at minus infinity.

    The logits are returned unchanged if no session has a logits state. Second: errors, by key of ``wanted``.
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
    """Set tokens that the mask does not allow to minus infinity; ids that it does not cover are not allowed."""
    num_known = min(len(mask), len(logits_V))
    forbidden = np.ones(len(logits_V), np.bool_)
    np.logical_not(mask[:num_known], out=forbidden[:num_known])
    if forbidden.all():
        if drafts:
            return  # the target may know ids that this model does not; it will correct the token
        raise InvalidRequest("the grammar leaves no token that the model knows", "grammar")
    logits_V.masked_fill_(torch.from_numpy(forbidden).to(logits_V.device), -torch.inf)
