"""Weight-only int8: linear layers keep one byte per weight and one scale per output; activations are unchanged.

Symmetric, rounded to nearest, one scale per output (the vector-wise scales of LLM.int8, arXiv:2208.07339, for the
weights only). **This is a different model**: mode exact then guarantees the probabilities of the rounded target. The
embedding and the norms are not rounded, also where the head shares its weights with the embedding.
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
"""Largest magnitude of a rounded weight."""

NARROW = 4
"""Up to this many tokens, torch's int8 kernel (CPU, bfloat16) was measured to be faster than widened weights."""

KERNEL_STEP = 32
"""That kernel needs numbers of inputs and outputs divisible by this; otherwise its results are silently wrong."""


class Int8Linear(nn.Module):
    """A linear layer over rounded weights."""

    weight_NK: Tensor
    scale_N: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features = linear.out_features
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
        out = out_TN.view(*x.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias


def is_int8(model: nn.Module) -> bool:
    """Whether its linear layers are rounded."""
    return any(isinstance(module, Int8Linear) for module in model.modules())


def empty(layer: nn.Module) -> None:
    """Free the weights of a linear layer that has been copied elsewhere."""
    if isinstance(layer, Int8Linear):
        layer.weight_NK = layer.weight_NK.new_empty(0)
    else:
        weight: Any = layer.weight
        layer.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)


def rounded_layers(model: PreTrainedModel) -> list[tuple[nn.Module, str, nn.Linear]]:
    """The layers to round, each as (parent module, name in it, layer).

    Subclasses of ``nn.Linear`` are left as they are: they compute something else (routers), or are quantised already.
    """
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]


@torch.inference_mode()
def round_weights(model: PreTrainedModel) -> None:
    """Replace the model's linear layers, one by one. Raises ConfigError if there are none but the head."""
    layers = rounded_layers(model)
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if all(linear is head for _, _, linear in layers):
        raise ConfigError(
            f"weights are to be int8, but {type(model).__name__} has no linear layers to round; leave weights at full"
        )
    for parent, name, linear in layers:
        setattr(parent, name, Int8Linear(linear))
