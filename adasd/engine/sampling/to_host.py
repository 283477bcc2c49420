"""Copies tensors from the device to the host in one copy, as every copy waits for all queued work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Pending(Generic[T]):
    """Numbers on the device, and what is made of them on the host; the device may still be computing them."""

    tensors: tuple[Tensor, ...]
    finish: Callable[[Sequence[Tensor]], T]

    def get(self) -> T:
        """Wait for it alone."""
        return self.finish(to_host(*self.tensors))


def fetch(pending: Sequence[Pending[Any]]) -> list[Any]:
    """The results of all of them, by one copy."""
    tensors = [tensor for one in pending for tensor in one.tensors]
    on_host = iter(to_host(*tensors) if tensors else ())
    return [one.finish([next(on_host) for _ in one.tensors]) for one in pending]


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
