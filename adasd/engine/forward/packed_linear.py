"""Linear layers in bfloat16 over weights in oneDNN's own layout, on a CPU that computes in bfloat16.

``F.linear`` converts the weights to that layout again in every call. ``torch.compile`` uses the same operations;
torch has no public name for them, so they are called only here.
"""

from __future__ import annotations

import torch
from torch import Tensor


def can_pack(weight_NK: Tensor) -> bool:
    """Whether packed weights compute the same, and faster."""
    return (
        weight_NK.device.type == "cpu"
        and weight_NK.dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def pack(weight_NK: Tensor) -> Tensor:
    """A copy in the layout of oneDNN, for ``packed_linear``."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_NK.contiguous())
    return packed


def packed_linear(x_TK: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """x w^T (+ bias): [T, N]."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x_TK, packed, bias, "none", [], "")
    return out
