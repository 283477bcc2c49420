"""Weight-only int8: linear layers keep a byte per weight and a scale per output; activations stay as they are.

Symmetric, rounded to nearest, one scale per row (the vector-wise scales of LLM.int8, arXiv:2208.07339, for the
weights alone). **That is another model**: mode exact then guarantees the probabilities of the rounded target. The
head, the embedding and the norms keep their numbers.
Shape letters: N outputs and K inputs of a layer, T tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from adasd.errors import ConfigError

LARGEST = 127
"""Magnitude of the largest weight of a row."""

NARROW = 4
"""Tokens up to which torch's kernel for int8 weights (CPU, bfloat16) was measured to beat widened weights."""

KERNEL_STEP = 32
"""That kernel takes whole vectors of inputs and outputs only; of others it makes nonsense without a word."""


class Int8Linear(nn.Module):
    """A linear layer over rounded weights."""

    weight_NK: Tensor
    scale_N: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight_NK = linear.weight.detach().float()
        scale_N = weight_NK.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST
        self.register_buffer("weight_NK", (weight_NK / scale_N[:, None]).round_().to(torch.int8))
        self.register_buffer("scale_N", scale_N.to(linear.weight.dtype))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

        self._suits_kernel = not any(size % KERNEL_STEP for size in linear.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]"""
        x_TK = x.reshape(-1, x.shape[-1])
        if (
            self._suits_kernel
            and x.dtype == torch.bfloat16
            and x.device.type == "cpu"
            and len(x_TK) <= NARROW
        ):
            out_TN = torch._weight_int8pack_mm(x_TK, self.weight_NK, self.scale_N)
        else:
            out_TN = F.linear(x_TK, self.weight_NK.to(x.dtype)) * self.scale_N
        out = out_TN.view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias


def is_int8(model: nn.Module) -> bool:
    """Were its linear layers rounded?"""
    return any(isinstance(module, Int8Linear) for module in model.modules())


def rounded_layers(model: PreTrainedModel) -> list[tuple[nn.Module, str, nn.Linear]]:
    """The layers that int8 means, each with the module that holds it and its name there: all but the head."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and child is not head
    ]


@torch.inference_mode()
def round_weights(model: PreTrainedModel) -> None:
    """Exchange the model's linear layers, one after the other. Raises ConfigError if there are none."""
    layers = rounded_layers(model)
    if not layers:
        raise ConfigError(
            f"weights are to be int8, but {type(model).__name__} has no linear layers to round; leave weights at full"
        )
    for parent, name, linear in layers:
        setattr(parent, name, Int8Linear(linear))
