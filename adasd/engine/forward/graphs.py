"""How work of a fixed shape is repeated: eagerly, or as a CUDA graph that the host starts with one call."""

from __future__ import annotations

from collections.abc import Callable

import torch

Run = Callable[[], None]
"""Work on tensors at fixed addresses; results are written to such tensors."""

Recorder = Callable[[Run], Run]
"""Turns work into a call that repeats it, faster."""

NUM_REHEARSALS = 2
"""Runs before the recording, in which libraries choose kernels and allocate memory."""


def eagerly(run: Run) -> Run:
    """The work itself: the slow twin of every other recorder."""
    return run


class CudaGraphs:
    """Records CUDA graphs on one device. They share memory, so only one may run at a time.

    Recording raises RuntimeError if the work does something that a graph cannot capture.
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
            # thread_local: other threads may allocate during the capture
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                run()
        return graph.replay
