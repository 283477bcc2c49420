"""Packages of a bill of materials that known advisories name: ``python k8s/audit.py SBOM.json ADVISORIES``.

ADVISORIES is a file of one advisory or a list of them, or a folder of such files, in OSV's format
(https://ossf.github.io/osv-schema/); nothing is fetched. The exit status is 1 if a package is affected.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

Advisory = Mapping[str, Any]


def advisories(place: Path) -> list[Advisory]:
    """All that are not withdrawn. ValueError for a file that is no JSON."""
    found: list[Advisory] = []
    for file in sorted(place.glob("**/*.json")) if place.is_dir() else [place]:
        content = json.loads(file.read_text(encoding="utf-8"))
        found += content if isinstance(content, list) else [content]
    return [one for one in found if "withdrawn" not in one]


def affected(sbom: Mapping[str, Any], known: Sequence[Advisory]) -> Iterator[str]:
    """One sentence for each package and advisory: name, version, advisory, and where it is mended."""
    for part in sbom.get("components", []):
        for one in known:
            for about in one.get("affected", []):
                package = about.get("package", {})
                named = package.get("ecosystem") == "PyPI" and canonicalize_name(part["name"]) == (
                    canonicalize_name(package["name"])
                )
                if named and hits(part["version"], about):
                    fixed = sorted(
                        event["fixed"]
                        for r in about.get("ranges", [])
                        for event in r["events"]
                        if "fixed" in event
                    )
                    todo = f"; fixed in {', '.join(fixed)}" if fixed else ""
                    yield (
                        f"{part['name']} {part['version']}: {one['id']} {one.get('summary', '')}".rstrip()
                        + todo
                    )


def hits(text: str, about: Mapping[str, Any]) -> bool:
    """Whether a version is listed or lies in a range of OSV events."""
    if text in about.get("versions", []):
        return True
    try:
        version = Version(text)
    except InvalidVersion:
        return False
    return any(
        _inside(version, one["events"])
        for one in about.get("ranges", [])
        if one["type"] in ("ECOSYSTEM", "SEMVER")
    )


def _inside(version: Version, events: Sequence[Mapping[str, str]]) -> bool:
    edges = sorted(
        ((Version(text), kind) for event in events for kind, text in event.items()), key=lambda e: e[0]
    )
    inside = False
    for edge, kind in edges:
        if kind == "introduced" and version >= edge:
            inside = True
        elif (kind == "fixed" and version >= edge) or (kind == "last_affected" and version > edge):
            inside = False
    return inside


def main(words: Sequence[str]) -> int:
    """Print what is affected; the module docstring explains the exit status."""
    if len(words) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    sbom, place = map(Path, words)
    found = list(affected(json.loads(sbom.read_text(encoding="utf-8")), advisories(place)))
    for sentence in found:
        print(f"✗ {sentence}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
