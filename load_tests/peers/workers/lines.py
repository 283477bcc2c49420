"""How a peer's process is asked: a JSON object per line comes in, one goes out. Needs nothing but Python.

Out, once the model is loaded: ``{"ready": true}``. Then for each ``{"prompt": [ids], "max_tokens": n, "mode": name}``
a ``{"tokens": [ids], "seconds": s}``, timed around the peer's own call.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence

Answer = Callable[[list[int], int, str], Sequence[int]]
"""From prompt, most tokens and mode to the new tokens."""


def serve(load: Callable[[], Answer]) -> None:
    """Load, then answer until the input ends. What libraries print goes to stderr."""
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        answer = load()
        print(json.dumps({"ready": True}), file=replies, flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            began_s = time.perf_counter()
            tokens = answer(asked["prompt"], asked["max_tokens"], asked["mode"])
            seconds = time.perf_counter() - began_s
            print(json.dumps({"tokens": list(tokens), "seconds": seconds}), file=replies, flush=True)
