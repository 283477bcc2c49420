"""Checks that the protos stay compatible with old callers: ``python -m services.transport.compatibility [--check]``.

``protos/adasd/v1/baseline.binpb`` is the committed description of both files. Anything old callers rely on (numbers,
types, names, methods) must not change. Additions enter the baseline by a run without ``--check``; a breaking change
is only accepted with ``--accept-breaking``. Needs grpcio-tools (extra ``dev``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from services.transport.generate import PACKAGE, ROOT

BASELINE = PACKAGE / "baseline.binpb"


def described(root: Path) -> FileDescriptorSet:
    """The protos under ``root`` as protoc describes them, without comments."""
    from grpc_tools import protoc  # type: ignore[import-untyped]

    sources = sorted(str(path.relative_to(root)) for path in (root / PACKAGE).glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "all.binpb"
        if protoc.main(["protoc", f"--proto_path={root}", f"--descriptor_set_out={out}", *sources]) != 0:
            raise SystemExit("protoc refused the .proto files (see above)")
        return FileDescriptorSet.FromString(out.read_bytes())


def breaking(before: FileDescriptorSet, now: FileDescriptorSet) -> list[str]:
    """One sentence per change that breaks old callers."""
    known, found = _facts(before), _facts(now)
    problems = []
    for name, fact in known.items():
        if name not in found:
            problems.append(f"{name} is gone (was {fact})")
        elif found[name] != fact:
            problems.append(f"{name} was {fact} and is {found[name]} now")
    return problems


def _facts(files: FileDescriptorSet) -> dict[str, str]:
    """What the wire and generated code depend on, by the full name of its owner."""
    return {name: fact for file in files.file for name, fact in _of_file(file)}


def _of_file(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for message in file.message_type:
        yield from _of_message(f"{file.package}.{message.name}", message)
    for enum in file.enum_type:
        yield from _of_enum(f"{file.package}.{enum.name}", enum)
    for service in file.service:
        for method in service.method:
            streams = (
                "stream " if method.client_streaming else "",
                "stream " if method.server_streaming else "",
            )
            fact = f"{streams[0]}{method.input_type} -> {streams[1]}{method.output_type}"
            yield f"{file.package}.{service.name}.{method.name}", fact


def _of_message(name: str, message: DescriptorProto) -> Iterator[tuple[str, str]]:
    yield name, "a message"
    for field in message.field:
        kind = field.type_name or field.Type.Name(field.type)
        presence = " optional" if field.proto3_optional else ""
        oneof = (
            f" in {message.oneof_decl[field.oneof_index].name}"
            if field.HasField("oneof_index") and not field.proto3_optional
            else ""
        )
        label = field.Label.Name(field.label)
        yield f"{name}.{field.name}", f"number {field.number}, {label} {kind}{presence}{oneof}"
    for inner in message.nested_type:
        yield from _of_message(f"{name}.{inner.name}", inner)
    for enum in message.enum_type:
        yield from _of_enum(f"{name}.{enum.name}", enum)


def _of_enum(name: str, enum: EnumDescriptorProto) -> Iterator[tuple[str, str]]:
    for value in enum.value:
        yield f"{name}.{value.name}", f"value {value.number}"


def main(arguments: list[str] | None = None) -> int:
    """Compare, and without ``--check`` update the baseline; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m services.transport.compatibility")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit 1 if the baseline is not current"
    )
    parser.add_argument(
        "--accept-breaking", action="store_true", help="renew it although old callers will break"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="repository root")
    options = parser.parse_args(arguments)
    baseline, now = options.root / BASELINE, described(options.root)
    before = FileDescriptorSet.FromString(baseline.read_bytes()) if baseline.exists() else FileDescriptorSet()
    problems = breaking(before, now)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems and (options.check or not options.accept_breaking):
        print("old callers would break: give new things new names and numbers", file=sys.stderr)
        return 1
    if _facts(before) == _facts(now):
        return 0
    if options.check:
        print(f"{BASELINE} is stale: run `make proto` and commit the result", file=sys.stderr)
        return 1
    baseline.write_bytes(now.SerializeToString(deterministic=True))
    print(BASELINE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
