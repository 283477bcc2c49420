"""Virtual environments for clients whose requirements clash with ours. Made once, and again when these change.

``requirements/CLIENT.txt`` pins what the client needs beyond what this project has installed anyway; the rest
(tokenizers, numpy, httpx, ...) is found in this project's own environment, which comes after the client's on
the path. No dependencies are resolved, so what the tests do not need (CUDA libraries, dashboards) is not installed.

    python -m tests.clients.environments    # makes all of them
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"
ROOT = Path(sys.prefix) / "clients"
CLIENTS = tuple(sorted(file.stem for file in REQUIREMENTS.glob("*.txt")))


def environment(client: str) -> Path:
    """The folder of the client's environment; made if it is missing or out of date."""
    file = REQUIREMENTS / f"{client}.txt"
    version = hashlib.sha256(file.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder, made = ROOT / client, ROOT / client / f"made-{version}"
    if not made.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        ours = [entry for entry in sys.path if Path(entry).name == "site-packages"]
        (_packages(folder) / "project.pth").write_text("\n".join(ours) + "\n")
        target = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--ignore-installed"]
        subprocess.run([*target, *options, "--requirement", str(file)], check=True)
        made.touch()
    return folder


def run(
    client: str, command: list[str], cwd: Path, timeout_s: float = 240.0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of the client's environment in ``cwd``; its output is captured, its status is not checked."""
    bin_folder = environment(client) / "bin"
    own = {name: value for name, value in os.environ.items() if not name.startswith(("ADASD_", "RAY_"))}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    places = {"HOME": str(cwd), "PATH": f"{bin_folder}:{own['PATH']}", "COLUMNS": "160"}
    return subprocess.run(
        [str(bin_folder / command[0]), *command[1:]],
        cwd=cwd,
        env={**own, **offline, **places, "NO_PROXY": "*", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def _packages(folder: Path) -> Path:
    return Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))


if __name__ == "__main__":
    for name in CLIENTS:
        print(environment(name))
