"""Writes the digest of the Dockerfile's base image behind its name: ``python3 k8s/pin_image.py``.

It asks the registry by ``docker buildx imagetools inspect``. With the digest, every build begins with the same files;
run it again to take the image's newer files.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCKERFILE = Path(__file__).resolve().parents[1] / "Dockerfile"
BASE = re.compile(r"^(ARG PYTHON=)([^@\s]+)(@sha256:[0-9a-f]{64})?$", re.MULTILINE)


def pinned(text: str, digest: str) -> str:
    """The Dockerfile with this digest. ValueError for anything that is none."""
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ValueError(f"{digest!r} is no digest")
    return BASE.sub(rf"\g<1>\g<2>@{digest}", text)


def main() -> int:
    text = DOCKERFILE.read_text(encoding="utf-8")
    found = BASE.search(text)
    assert found is not None
    command = ["docker", "buildx", "imagetools", "inspect", found[2], "--format", "{{.Manifest.Digest}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"pin-image: {getattr(error, 'stderr', None) or error}", file=sys.stderr)
        return 1
    DOCKERFILE.write_text(pinned(text, done.stdout.strip()), encoding="utf-8")
    print(f"{found[2]}@{done.stdout.strip()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
