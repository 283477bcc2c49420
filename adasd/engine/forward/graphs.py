"""How work of a fixed shape is repeated: eagerly, or as a CUDA graph that the host starts with one call."""

from __future__ import annotations

from collections.abc import Callable

import torch

from adasd.errors import DeviceFailure

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

    All recordings use one stream of this device: each further stream would keep a workspace of cuBLAS, and torch's own
    capture stream belongs to whichever device was first. Work that fails in rehearsal raises its own error and is not
    recorded. An error while recording is a DeviceFailure: it leaves torch's allocator in capture mode, so the process
    must end.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, run: Run) -> Run:
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(NUM_REHEARSALS):
                    run()
            torch.cuda.current_stream().wait_stream(self._stream)
            self._stream.synchronize()  # an error of the rehearsal is raised here, before anything is recorded
            graph = torch.cuda.CUDAGraph()
            try:
                # thread_local: other threads may allocate during the capture
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ):
                    run()
            except Exception as error:
                raise DeviceFailure(f"a CUDA graph could not be recorded: {error}") from error
        return graph.replay
