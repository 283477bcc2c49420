"""Some entries of a tensor's first dimension. All of them cost neither a copy nor a transfer of their indices.

Indices rise and are distinct, so as many as there are entries are all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def entries(all_N: Tensor, which: Sequence[int]) -> Tensor:
    """These entries; all of them are the tensor itself."""
    return all_N if len(which) == len(all_N) else all_N[which]


def put_entries(all_N: Tensor, which: Sequence[int], some: Tensor) -> None:
    """Overwrite these entries."""
    if len(which) == len(all_N):
        all_N.copy_(some)
    else:
        all_N[which] = some
