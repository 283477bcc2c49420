"""When and from which source a result was made."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime

from cluster.data import ROOT


def stamp() -> dict[str, str]:
    """Date and commit of a result."""
    return {"date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": git("rev-parse", "HEAD")}


def git(*words: str) -> str:
    """Output of git in the source tree; "unknown" without one."""
    if not (ROOT / ".git").exists():
        return "unknown"
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"
