"""``adasd serve --restart``: runs the service in a child process, and restarts it whenever it fails.

The child is forked before Ray is imported, so a broken Ray leaves no state in the process that starts the next child.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

LOST = 3
"""The child's exit status if the service failed after it had served."""
STABLE_S = 600.0
"""A service that ran this long is restarted after 1 s; otherwise pauses double, up to LONGEST_PAUSE_S."""
LONGEST_PAUSE_S = 60.0


def supervise(
    run: Callable[[], int],
    tell: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> int:
    """Run again while the status is LOST or, once it has served, 1 (start failed); return any other status.

    0 if it is told to stop between two runs (KeyboardInterrupt).
    """
    pause_s, has_served = 1.0, False
    while True:
        begun_s = now()
        status = run()
        has_served |= status == LOST
        if status != LOST and not (has_served and status == 1):
            return status
        if now() - begun_s > STABLE_S:
            pause_s = 1.0
        try:
            tell(f"Starting again in {pause_s:g} s.")
            sleep(pause_s)
        except KeyboardInterrupt:
            tell("Stopped.")
            return 0
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def in_child(serve: Callable[[], int]) -> int:
    """Exit status of ``serve`` in a forked process. SIGTERM and SIGINT (KeyboardInterrupt here) end the child first."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)  # Ctrl-C reaches the child only once, through the parent
        status = serve()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    while True:
        try:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except KeyboardInterrupt:
            os.kill(child, signal.SIGTERM)
