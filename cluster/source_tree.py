"""What lies beside the service and not in it: load tests and rehearsals come with the source tree alone."""

from __future__ import annotations

import sys
from pathlib import Path

from adasd.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def need_load_tests(root: Path = ROOT) -> None:
    """Make ``load_tests`` importable, also where only the service's packages are installed (editable); ConfigError."""
    if not (root / "load_tests" / "rig.py").is_file():
        raise ConfigError(f"there is no {root}/load_tests; run this from a source tree")
    if str(root) not in sys.path:
        sys.path.append(str(root))
