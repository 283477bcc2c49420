"""Free ports for servers that are started here."""

from __future__ import annotations

import itertools
import random
import socket
from contextlib import suppress

HOST = "127.0.0.1"
LOWEST, HIGHEST = 20_000, 32_000
"""Below the ephemeral ports of connections, above those of Ray's workers: no other process takes them in between."""

_turns = itertools.count(random.SystemRandom().randrange(LOWEST, HIGHEST))


def free_port() -> int:
    """A free port of the loopback address, a different one at each call."""
    for turn in _turns:
        port = LOWEST + turn % (HIGHEST - LOWEST)
        with suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port
    raise AssertionError("unreachable: the turns do not end")
