"""``adasd k8s``: manifests for Kubernetes, and what is wrong with them. Parses and dispatches."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import yaml

from adasd.errors import ConfigError
from cluster import k8s_facts
from cluster.k8s_render import BASE, render
from cluster.source_tree import need_load_tests


def main(argv: Sequence[str], stdin: TextIO | None = None) -> int:
    """The exit status: 0, 1 if a check found something, 2 if the input cannot be used."""
    arguments = parse(argv)
    try:
        if arguments.action == "render":
            return write(arguments.topology, arguments.cluster, arguments.out, arguments.base)
        if arguments.action == "rehearse":
            return play(arguments.topology, arguments.cluster)
        return check(stdin or sys.stdin, arguments.existing)
    except ConfigError as error:
        for sentence in str(error).splitlines():
            print(f"adasd k8s {arguments.action}: {sentence}", file=sys.stderr)
        return 2


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="adasd k8s", allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    render_ = actions.add_parser(
        "render", help="turn a topology into a Kustomize overlay", allow_abbrev=False
    )
    render_.add_argument(
        "--topology", type=Path, required=True, metavar="FILE", help="what adasd serve --config reads"
    )
    render_.add_argument(
        "--cluster", type=Path, metavar="FILE", help="images, volumes and machines of the Kubernetes cluster"
    )
    render_.add_argument("--out", type=Path, metavar="DIR", help="the overlay's folder [the topology's]")
    render_.add_argument(
        "--base", type=Path, default=BASE, metavar="DIR", help="the base's folder [k8s/base]"
    )
    check_ = actions.add_parser(
        "check", help="read manifests and say what does not fit together", allow_abbrev=False
    )
    check_.add_argument(
        "--existing",
        action="append",
        default=[],
        metavar="KIND/NAME",
        help="what the cluster has already, for example secret/adasd-api-keys; may be repeated",
    )
    rehearse_ = actions.add_parser(
        "rehearse",
        help="play a topology's cluster on this machine: Ray nodes on loopback, serve deploy, a roll-out under load",
        allow_abbrev=False,
    )
    two_tier = Path(__file__).resolve().parents[1] / "k8s" / "overlays" / "two-tier"
    rehearse_.add_argument(
        "--topology", type=Path, default=two_tier / "topology.yaml", metavar="FILE", help="[two-tier's]"
    )
    rehearse_.add_argument(
        "--cluster", type=Path, metavar="FILE", help="[cluster.yaml beside it, if there is one]"
    )
    return parser.parse_args(argv)


def write(topology: Path, cluster: Path | None, out: Path | None, base: Path) -> int:
    """Render into a folder and say what the cluster needs besides."""
    folder = out or topology.parent
    overlay = render(topology, k8s_facts.read(cluster), folder, base)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in overlay.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    print(f"Wrote {', '.join(overlay.files)} to {folder}.")
    for needed in overlay.needs:
        print(f"The cluster has to have {needed}.")
    print(f"  kubectl apply --server-side -k {folder}")
    return 0


def check(stream: TextIO, existing: Sequence[str]) -> int:
    """Print every problem of the manifests in ``stream``."""
    from cluster.k8s_relations import problems

    try:
        documents = [document for document in yaml.safe_load_all(stream) if document]
    except yaml.YAMLError as error:
        raise ConfigError(f"these are no manifests: {' '.join(str(error).split())}") from error
    found = problems(documents, frozenset(existing))
    for sentence in found:
        print(f"✗ {sentence}")
    if not found:
        print(f"✓ {len(documents)} manifests fit together.")
    return 1 if found else 0


def play(topology: Path, cluster: Path | None) -> int:
    """Rehearse on this machine; the steps are printed as they pass."""
    from rich.console import Console

    need_load_tests()
    from load_tests.rehearsal import RehearsalFailed, rehearse

    beside = topology.parent / "cluster.yaml"
    try:
        rehearse(topology, cluster or (beside if beside.is_file() else None), Console())
    except RehearsalFailed as error:
        for sentence in str(error).splitlines():
            print(f"adasd k8s rehearse: {sentence}", file=sys.stderr)
        return 1
    return 0
