"""The memory of this machine's first NVIDIA card, as the driver's own tool says it.

Asking torch would leave a CUDA context on the card for as long as the asking process lives.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress

_COMMAND = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
_TIMEOUT_S = 20.0


def bytes_of_card_here() -> int | None:
    """None if there is no card, or if its tool is missing or does not say."""
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        said = subprocess.run(_COMMAND, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True).stdout
        return int(said.partition("\n")[0]) * 2**20
    return None
