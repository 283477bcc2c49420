"""Ports for servers that are started here."""

from __future__ import annotations

import itertools
import random
import socket
from contextlib import suppress

HOST = "127.0.0.1"
LOWEST, HIGHEST = 20_000, 32_000
"""Below the ports that connections get, above those of Ray's workers: nobody else takes them meanwhile."""

_turns = itertools.count(random.SystemRandom().randrange(LOWEST, HIGHEST))


def free_port() -> int:
    """A port of loopback that nobody listens on, each time another one."""
    for turn in _turns:
        port = LOWEST + turn % (HIGHEST - LOWEST)
        with suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port
    raise AssertionError("unreachable: the turns do not end")
