"""How work of a fixed shape is repeated: as it stands, or as a CUDA graph that the host starts with one call."""

from __future__ import annotations

from collections.abc import Callable

import torch

Run = Callable[[], None]
"""Work on tensors that stay where they are; results are written into such tensors."""

Recorder = Callable[[Run], Run]
"""From work to something that does the same work again, faster."""

NUM_REHEARSALS = 2
"""Runs before one is recorded: libraries choose their kernels and take their memory in them."""


def eagerly(run: Run) -> Run:
    """The work itself: the oracle of every other recorder."""
    return run


class CudaGraphs:
    """Records CUDA graphs of one device, which share their memory: one of them runs at a time.

    A recording raises RuntimeError where the work does something that a graph cannot hold.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> Run:
        with torch.cuda.device(self._device):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(NUM_REHEARSALS):
                    run()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # other threads of this process may allocate meanwhile: only this one's calls are to be refused
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                run()
        return graph.replay
