"""Copies tensors from the device to the host in one copy, as every copy waits for all queued work."""

from __future__ import annotations

import torch
from torch import Tensor


def to_host(*tensors: Tensor) -> list[Tensor]:
    """The tensors on the CPU, by one copy; tensors on the CPU are returned as they are.

    The copy is in double precision, which holds token ids, counts, flags and float32 exactly.
    """
    if _is_host(tensors[0]):
        return list(tensors)
    packed = torch.cat([tensor.double().flatten() for tensor in tensors]).cpu()
    parts = packed.split([tensor.numel() for tensor in tensors])  # type: ignore[no-untyped-call]
    return [part.to(tensor.dtype).view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _is_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"
