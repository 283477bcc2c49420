"""Which implementation judges blocks: Triton kernels on CUDA where they run, else torch's operations."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adasd.rounds import AcceptanceRule, SamplingTransform
from adasd.specdec import verify
from adasd.specdec.blocks import BlockBatch
from adasd.specdec.distributions import TransformBatch
from adasd.specdec.verify import Judgement, RandomNumbers

_log = logging.getLogger(__name__)

Judge = Callable[[Tensor, BlockBatch, TransformBatch, Sequence[AcceptanceRule], RandomNumbers], Judgement]
"""``adasd.specdec.verify.judge`` or its fast twin."""

FUSED = "adasd.specdec.fused.judge"

TORCH, TRITON = "torch", "triton"
"""Names of the two implementations."""


def backend_of(judge: Judge) -> str:
    """``torch`` or ``triton``."""
    return TORCH if judge is verify.judge else TRITON


def choose_judge(device: torch.device, vocab_size: int) -> Judge:
    """The kernels are compiled and tried here, so that no request pays for it; the log says what was chosen."""
    if device.type != "cuda":
        _log.info("verdicts by torch's operations")
        return verify.judge
    try:
        fused: Judge = importlib.import_module(FUSED).judge
        _try(fused, device, vocab_size)
    except Exception as error:  # no Triton, no compiler, a card that it does not know
        _log.warning("verdicts by torch's operations, as the Triton kernels do not run here: %s", error)
        return verify.judge
    _log.info("verdicts by Triton kernels")
    return fused


def _try(judge: Judge, device: torch.device, vocab_size: int) -> None:
    """Judge one token of each kind of session."""
    transforms = [SamplingTransform(temperature=0.0), SamplingTransform(seed=1), SamplingTransform(top_p=0.9)]
    batch, num = TransformBatch.build(transforms, [1] * 3, device), len(transforms)
    rules = [AcceptanceRule()] * num
    chance = verify.draw_random_numbers(batch, rules, 0, vocab_size, torch.Generator(device))
    logits = torch.zeros(num, 1, vocab_size, device=device)
    judge(logits, BlockBatch.pack([()] * num, [None] * num, device), batch, rules, chance)
