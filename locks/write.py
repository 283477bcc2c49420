"""Writes the locks from pyproject.toml and constraints.txt: every version with the hashes of all its files.

    python locks/write.py

torch.txt is torch from PyPI with the CUDA libraries that it brings on Linux; the other locks leave these out, so that
they fit a torch for CPUs, too. Tests run Triton's kernels without a GPU, so dev.txt has Triton.

uv resolves for all platforms and Python versions of pyproject.toml at once.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LOCKS = {
    "service": ("traces", "cuda", "build"),
    "dev": ("traces", "cuda", "build", "dev"),
}
"""Lock -> extras beside the package's own dependencies."""
TOOLS = {"browser": "playwright", "bill": "cyclonedx-bom"}
"""Lock -> the program that it is for, without the package."""
ONLY_WITH_TORCH = re.compile(r"^((?:torch|triton|cuda|nvidia)[a-z0-9-]*)==", re.MULTILINE)


def main() -> int:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (torch,) = re.findall(r"^torch==\S+$", constraints, re.MULTILINE)
    compile_("torch", ["-"], torch)
    left_out = sorted(set(ONLY_WITH_TORCH.findall((HERE / "torch.txt").read_text(encoding="utf-8"))))
    for name, extras in LOCKS.items():
        omitted = [f"--no-emit-package={one}" for one in left_out if (name, one) != ("dev", "triton")]
        compile_(name, ["pyproject.toml", *omitted, *(f"--extra={extra}" for extra in extras)])
    for name, program in TOOLS.items():
        compile_(name, ["-"], program)
    return 0


def compile_(name: str, words: list[str], requirements: str = "") -> None:
    """Run uv; CalledProcessError if the versions of constraints.txt do not go together."""
    command = [sys.executable, "-m", "uv", "pip", "compile", *words, "--constraint", "constraints.txt"]
    command += [
        "--universal",
        "--python-version",
        "3.11",
        "--generate-hashes",
        "--no-annotate",
        "--no-header",
        "--quiet",
    ]
    made = subprocess.run(
        [*command, "--output-file", f"locks/{name}.txt", "--upgrade"],
        cwd=ROOT, input=requirements, text=True, check=False, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    made.check_returncode()
    print(f"locks/{name}.txt")


if __name__ == "__main__":
    sys.exit(main())
