"""gRPC's events reach a busy event loop all at once, not one by one.

In Python, a thread of gRPC's puts finished operations into a queue and writes a byte to a socket for each; the loop
reads one byte in each turn and then takes the whole queue (grpcio 1.85, completion_queue.pyx.pxi). While there is more
than one operation per turn, bytes pile up. After 278 on Linux the socket is full and the thread waits in its write:
from then on the process gets one operation per turn, whatever the number of its connections.
"""

from __future__ import annotations

import asyncio
import socket
import threading

import grpc

_REAL_PAIR = socket.socketpair
ALL = 65536
"""More bytes than such a socket holds."""


class _Drained(socket.socket):
    """The end of the socket that the loop reads."""

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        return super().recv(max(bufsize, ALL), flags)


def take_all_events() -> None:
    """For this process, unless gRPC's asyncio part has begun to work in it already. Repeatable, in any thread."""
    thread = threading.Thread(target=lambda: asyncio.run(_begin()))  # this one may be running a loop
    thread.start()
    thread.join()


async def _begin() -> None:
    socket.socketpair = _pair  # type: ignore[assignment]  # gRPC makes its socket once, with the poller
    try:
        grpc.aio.init_grpc_aio()  # never shut down again, so the poller stays
    finally:
        socket.socketpair = _REAL_PAIR


def _pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = _REAL_PAIR()
    return _Drained(fileno=ours.detach()), theirs
