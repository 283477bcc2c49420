"""Generates protos/adasd/v1/*_pb2*: ``python -m services.transport.generate [--check]``.

With ``--check`` nothing is written; the exit status is 1 if the committed files differ from the output of the
pinned grpcio-tools. Needs grpcio-tools (extra ``dev``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path("protos/adasd/v1")


def generated(root: Path) -> dict[Path, bytes]:
    """Protoc's output for the sources under ``root``: path relative to the root -> content."""
    from grpc_tools import protoc  # type: ignore[import-untyped]

    sources = sorted(str(path.relative_to(root)) for path in (root / PACKAGE).glob("*.proto"))
    with tempfile.TemporaryDirectory() as out:
        outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"--proto_path={root}", *outputs, *sources]) != 0:
            raise SystemExit("protoc refused the .proto files (see above)")
        return {path.relative_to(out): path.read_bytes() for path in Path(out).rglob("*.py*")}


def stale(root: Path, fresh: dict[Path, bytes]) -> list[Path]:
    """Files that are missing, differ, or no longer have a source."""
    committed = {path.relative_to(root) for path in (root / PACKAGE).glob("*_pb2*")}
    differing = [
        path
        for path, content in fresh.items()
        if path not in committed or (root / path).read_bytes() != content
    ]
    return sorted({*differing, *(committed - fresh.keys())})


def main(arguments: list[str] | None = None) -> int:
    """Write the generated files, or with ``--check`` compare them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m services.transport.generate")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a file is stale")
    parser.add_argument("--root", type=Path, default=ROOT, help="repository root")
    options = parser.parse_args(arguments)
    fresh = generated(options.root)
    changed = stale(options.root, fresh)
    if options.check:
        for path in changed:
            print(f"{path} is stale: run `make proto` and commit the result", file=sys.stderr)
        return 1 if changed else 0
    for path in changed:
        if path in fresh:
            (options.root / path).write_bytes(fresh[path])
        else:
            (options.root / path).unlink()
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
