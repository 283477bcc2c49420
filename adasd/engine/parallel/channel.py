"""The channel between rank 0 and the other ranks: messages over Unix sockets, in a folder of their user alone.

All ranks are on one node. A socket ends with its process, however that ends, so each side learns at once that the other
is gone; nothing waits for a time limit.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from adasd.errors import ConfigError, RankLost

SOCKET_NAME = "ranks"
_LENGTH = struct.Struct("!I")
_POLL_S = 0.2
LOADED, START, FAILED = b"loaded", b"start", b"failed "


def send(connection: socket.socket, message: bytes) -> None:
    """Send one message; OSError if the other side is gone."""
    connection.sendall(_LENGTH.pack(len(message)) + message)


def receive(connection: socket.socket) -> bytes | None:
    """The next message; None once the other side is gone."""
    head = _exactly(connection, _LENGTH.size)
    return None if head is None else _exactly(connection, *_LENGTH.unpack(head))


def _exactly(connection: socket.socket, num_bytes: int) -> bytes | None:
    parts = []
    while num_bytes:
        try:
            part = connection.recv(num_bytes)
        except OSError:
            return None
        if not part:
            return None
        parts.append(part)
        num_bytes -= len(part)
    return b"".join(parts)


def connect(folder: Path) -> socket.socket:
    """A connection to rank 0; OSError if it does not listen."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(folder / SOCKET_NAME))
    except OSError:
        connection.close()
        raise
    return connection


class Channel:
    """Rank 0's channel to the ``num`` other ranks. ``on_lost`` is called once, in another thread, with the reason."""

    def __init__(self, folder: Path, num: int, on_lost: Callable[[str], None] = lambda why: None) -> None:
        self.lost: str | None = None  # why, once a rank is gone
        self._num, self._on_lost = num, on_lost
        self._connections: list[socket.socket] = []
        self._closing, self._num_loaded = False, 0
        self._changed = threading.Condition()
        self._watch = threading.Thread(target=self._watch_connections, name="ranks", daemon=True)
        self._server = socket.socket(socket.AF_UNIX)
        try:
            self._server.bind(str(folder / SOCKET_NAME))
            self._server.listen(num)
        except OSError:
            self._server.close()
            raise

    def accept(self, check: Callable[[], None]) -> None:
        """Wait until all ranks are connected. ``check`` is called meanwhile, to raise if one never will be."""
        self._server.settimeout(_POLL_S)
        while len(self._connections) < self._num:
            with suppress(TimeoutError):
                connection, _ = self._server.accept()
                connection.settimeout(None)
                self._connections.append(connection)
            check()
        self._server.close()
        self._watch.start()

    def start(self) -> None:
        """Wait until all ranks have loaded their shards, then let them go on.

        Raises ConfigError with the reason if one has failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.lost is not None or self._num_loaded == self._num)
        if self.lost is not None:
            raise ConfigError(self.lost)
        self.send(START)

    def send(self, message: bytes) -> None:
        """Send to every rank; RankLost if one is gone."""
        for connection in self._connections:
            try:
                send(connection, message)
            except OSError as error:
                self._lose(f"a rank cannot be reached: {error}")
        self.check()

    def check(self) -> None:
        """Raise RankLost if a rank is gone."""
        if self.lost is not None:
            raise RankLost(self.lost)

    def close(self) -> None:
        """The other ranks end. Idempotent."""
        self._closing = True
        self._server.close()
        for connection in self._connections:
            with suppress(OSError):  # it is gone already
                connection.shutdown(socket.SHUT_RDWR)
        if self._watch.is_alive() and self._watch is not threading.current_thread():
            self._watch.join()
        for connection in self._connections:
            connection.close()

    def _watch_connections(self) -> None:
        with selectors.DefaultSelector() as waiting:
            for connection in self._connections:
                waiting.register(connection, selectors.EVENT_READ, connection)
            while waiting.get_map():
                for key, _ in waiting.select():
                    connection = key.data
                    message = receive(connection)
                    if message == LOADED:
                        with self._changed:
                            self._num_loaded += 1
                            self._changed.notify_all()
                        continue
                    waiting.unregister(connection)
                    if message is not None:
                        self._lose(message.removeprefix(FAILED).decode(errors="replace"))
                    else:
                        self._lose("a rank has ended by itself")

    def _lose(self, why: str) -> None:
        """Record the first loss."""
        with self._changed:
            if self._closing or self.lost is not None:
                return
            self.lost = why
            self._changed.notify_all()
        self._on_lost(why)
