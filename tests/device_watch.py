"""Finds, without a card, what a CUDA graph cannot hold: waits for values, and tensors of the host.

Tensors lie on the meta device, which stands for the card. It has no values, so torch itself refuses to bring one to
the host (``item``, ``bool``, ``cpu``, ``nonzero``, indices of unknown number). The watch refuses the rest: operations
that read or make a tensor of another device, by mistake or to copy numbers over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CARD = torch.device("meta")


class HostTensor(RuntimeError):
    """An operation of the watched work has to do with a tensor that is not on the card."""


class OperationWatch(TorchDispatchMode):
    """Refuses operations with tensors of other devices; with ``may_send``, copies to the card are allowed."""

    def __init__(self, may_send: bool) -> None:
        super().__init__()
        self._may_send = may_send
        self.num_operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.num_operations += 1
        given = tree_leaves((args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        involved = [one for one in (*given, *tree_leaves(result)) if isinstance(one, Tensor)]
        away = [one for one in involved if one.device != CARD]
        mixed = len(away) < len(involved)
        if away and (not self._may_send or (mixed and func not in _COPIES)):
            raise HostTensor(f"{func} with a tensor of {away[0].device} {tuple(away[0].shape)}")
        return result


_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class NumbersWatch(TorchFunctionMode):
    """Refuses to make tensors from numbers of the host: each is a copy that a recording would repeat unchanged."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        by_list = func in _INDEXING and isinstance(args[1], list)
        if func in _FROM_NUMBERS or by_list:
            raise HostTensor(f"numbers of the host are sent to the card: {args[1:] if by_list else args}")
        return func(*args, **(kwargs or {}))


_INDEXING = (Tensor.__getitem__, Tensor.__setitem__)
_FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor)


@contextmanager
def device_watch(*, may_send: bool = False) -> Iterator[OperationWatch]:
    """Refuses what a recording cannot hold; with ``may_send`` only waits and mixed devices, as eager work may send."""
    with nullcontext() if may_send else NumbersWatch(), OperationWatch(may_send) as watch:
        yield watch


def watched(run: Callable[[], None]) -> Callable[[], None]:
    """A recorder (``adasd.engine.forward.graphs``) whose recordings repeat the work under the watch."""

    def repeat() -> None:
        with device_watch():
            run()

    repeat()
    return repeat
