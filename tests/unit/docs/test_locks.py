"""The locks hold what pyproject.toml asks for, in the versions of constraints.txt, each with hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENTRY = re.compile(
    r"^([a-z0-9][a-z0-9._-]*)==(\S+)([^\n]*(?:\n +--hash=sha256:[0-9a-f]{64}[^\n]*)*)", re.MULTILINE
)
LOCKS = ("service", "dev", "browser", "bill", "torch")


def lock(name: str) -> dict[str, Version]:
    """Package -> version of a lock."""
    text = (ROOT / "locks" / f"{name}.txt").read_text()
    return {canonicalize_name(package): Version(version) for package, version, _ in ENTRY.findall(text)}


def constraints() -> dict[str, Version]:
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in pins}


def asked(*extras: str) -> list[Requirement]:
    """The package's dependencies and those of extras, without torch, which has a lock of its own."""
    lines = [
        *PROJECT["dependencies"],
        *(line for e in extras for line in PROJECT["optional-dependencies"][e]),
    ]
    return [one for one in map(Requirement, lines) if one.name != "torch"]


@pytest.mark.parametrize("name", LOCKS)
def test_every_version_has_hashes_and_is_that_of_the_constraints(name):
    text = (ROOT / "locks" / f"{name}.txt").read_text()
    entries = ENTRY.findall(text)
    assert entries
    assert len(entries) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE))  # nothing stands beside them
    assert [package for package, _, rest in entries if "--hash=sha256:" not in rest] == []
    chosen = constraints()
    assert {p: v for p, v in lock(name).items() if p in chosen and chosen[p] != v} == {}


@pytest.mark.parametrize(
    ("name", "extras"),
    [("service", ("traces", "cuda", "build")), ("dev", ("traces", "cuda", "build", "dev"))],
)
def test_a_lock_holds_all_that_is_asked_for(name, extras):
    held = lock(name)
    for one in asked(*extras):
        package = canonicalize_name(one.name)
        assert package in held, package
        assert one.specifier.contains(held[package]), f"{package} {held[package]} is not {one.specifier}"


def test_every_pinned_package_is_in_a_lock():
    held = {package for name in LOCKS for package in lock(name)}
    assert set(constraints()) - held == set()


def test_no_lock_but_torchs_brings_torch_or_cuda():
    for name in set(LOCKS) - {"torch"}:
        allowed = {"triton"} if name == "dev" else set()  # the tests run its kernels without a GPU
        assert {p for p in lock(name) if p.startswith(("torch", "triton", "nvidia-", "cuda-"))} == allowed
    assert {"torch", "triton"} <= set(lock("torch"))
