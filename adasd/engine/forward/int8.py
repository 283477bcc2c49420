"""Int8: linear layers keep one byte per weight, and one more per group of 32 of them.

Symmetric and rounded to nearest, in groups along the inputs, as in GGUF's Q8_0. A group's scale is a whole number of
steps, 1 to 127, of a scale that the output has; it is rounded up, so that every weight of the group fits a byte. **This
is a different model**: mode exact then guarantees the probabilities of the rounded target. The embedding and the norms
are not rounded, also where the head shares its weights with the embedding.

This module multiplies with full activations. The C kernels round these, too, in the same groups, each token for itself
(``native/products.h``).
Shape letters: N outputs and K inputs of a layer, G groups of E inputs, T tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from adasd.errors import ConfigError

LARGEST = 127
"""Largest magnitude of a rounded number, and largest number of steps in a group's scale."""

GROUP = 32
"""Inputs that share a scale; the last group of a layer may have fewer."""

WIDENED = 2**18
"""Weights that are widened to floats at a time: they stay in the processor's cache."""

_LEAST = 1e-30
"""Stands for the largest weight of an output that is zero."""


class Int8Linear(nn.Module):
    """A linear layer over rounded weights: weight = bytes * steps of its group * scale of its output."""

    weight_NGE: Tensor
    """int8, padded with zeros to whole groups."""
    steps_NG: Tensor
    """int8, 1 to LARGEST."""
    scale_N: Tensor
    """float32"""
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight_NK = F.pad(linear.weight.detach().float(), (0, -linear.in_features % GROUP))
        weight_NGE = weight_NK.view(len(weight_NK), -1, GROUP)
        largest_NG = weight_NGE.abs().amax(dim=2)
        scale_N = largest_NG.amax(dim=1).clamp_min(_LEAST) / LARGEST**2
        steps_NG = (largest_NG / (LARGEST * scale_N[:, None])).ceil().clamp_(1, LARGEST)
        in_steps = weight_NGE / (steps_NG * scale_N[:, None])[..., None]
        self.register_buffer("weight_NGE", in_steps.round_().to(torch.int8))
        self.register_buffer("steps_NG", steps_NG.to(torch.int8))
        self.register_buffer("scale_N", scale_N)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N], computed in float32, in the type of ``x``"""
        x_float, some = x.float(), max(1, WIDENED // self.in_features)
        parts = []
        both = (torch.split(one, some) for one in (self.weight_NGE, self.steps_NG))
        for bytes_NGE, steps_NG in zip(*both, strict=True):
            weight_NGE = bytes_NGE.float()
            weight_NGE *= steps_NG[..., None]
            parts.append(F.linear(x_float, weight_NGE.flatten(1)[:, : self.in_features]))
        out = torch.cat(parts, dim=-1) * self.scale_N
        return (out if self.bias is None else out + self.bias).to(x.dtype)


def bytes_of(out_features: int, in_features: int) -> int:
    """Memory of one rounded layer without its bias."""
    num_groups = -(-in_features // GROUP)
    return out_features * (num_groups * (GROUP + 1) + torch.float32.itemsize)


def is_int8(model: nn.Module) -> bool:
    """Whether its linear layers are rounded."""
    return any(isinstance(module, Int8Linear) for module in model.modules())


def empty(layer: nn.Module) -> None:
    """Free the weights of a linear layer that has been copied elsewhere."""
    if isinstance(layer, Int8Linear):
        layer.weight_NGE, layer.steps_NG = layer.weight_NGE.new_empty(0), layer.steps_NG.new_empty(0)
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
