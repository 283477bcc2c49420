"""What a session's own text does to its logits: penalties and grammar, row by row, on draft and target alike.

Shape letters: N rows of logits in a pass, J of them of one session, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adasd.engine.sampling.logits_state import LogitsState
from adasd.engine.work import DraftWork, Piece, Work
from adasd.errors import AdasdError, InvalidRequest
from adasd.specdec.penalties import penalise
from adasd.text.grammar import Mask


@dataclass(frozen=True, slots=True)
class Asked:
    """A session's rows of logits whose laws are wanted, and what leads to them."""

    work: Work
    piece: Piece  # fed in this pass; the last row's law is for the position behind it
    rows: slice  # among the logits; one position each

    @property
    def logits_state(self) -> LogitsState | None:
        return self.work.slot.logits_state


def shape(asked: Mapping[int, Asked], logits_NV: Tensor) -> tuple[Tensor, dict[int, AdasdError]]:
    """Float32 logits with penalties applied and what grammars forbid at minus infinity.

    The input itself if no session has a history. Beside them, by key of ``asked``, why a session cannot go on.
    """
    if all(one.logits_state is None for one in asked.values()):
        return logits_NV, {}
    shaped_NV = logits_NV.to(torch.float32, copy=True)
    errors: dict[int, AdasdError] = {}
    for i, one in asked.items():
        if one.logits_state is not None:
            try:
                _shape_one(one, one.logits_state, shaped_NV[one.rows])
            except AdasdError as error:
                errors[i] = error
    return shaped_NV, errors


def _shape_one(one: Asked, history: LogitsState, logits_JV: Tensor) -> None:
    """In place."""
    tokens, num_rows = one.piece.tokens, len(logits_JV)
    seen = history.seen(tokens, num_rows)
    if seen is not None:
        penalise(logits_JV, seen, one.work.transform)
    masks = history.masks(tokens, num_rows)
    for logits_V, mask in zip(logits_JV[num_rows - len(masks) :], masks, strict=True):
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
