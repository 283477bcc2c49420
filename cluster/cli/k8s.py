"""``adasd k8s``: render manifests for Kubernetes and check them.

Other packages add actions by an entry point in the group ``adasd.k8s``, in the same way as commands.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import yaml

from adasd.errors import ConfigError
from cluster.cli import added, load, summary
from cluster.data import BASE, PACKAGED
from cluster.k8s import facts as cluster_facts
from cluster.k8s.manifests import Manifests, is_manifest
from cluster.k8s.memory import cards_of_facts, cards_of_manifests, memory_report
from cluster.k8s.render import render, topology_config

GROUP = "adasd.k8s"


def main(argv: Sequence[str], stdin: TextIO | None = None) -> int:
    """Returns the exit status: 0, 1 if a check found something, 2 if the input is unusable."""
    extra = added(GROUP)
    action = argv[0] if argv else ""
    try:
        if action in extra:
            return load(action, extra)(argv[1:])
        arguments = parser().parse_args(argv)
        if arguments.action == "render":
            return write(
                arguments.topology, arguments.cluster, arguments.out, arguments.base, arguments.models
            )
        return check(stdin or sys.stdin, arguments.existing, arguments.models)
    except ConfigError as error:
        for sentence in str(error).splitlines():
            print(f"adasd k8s {action}: {sentence}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="adasd k8s", allow_abbrev=False)
    actions = made.add_subparsers(dest="action", required=True, metavar="ACTION")
    render_ = actions.add_parser(
        "render", help="turn a topology into a Kustomize overlay", allow_abbrev=False
    )
    render_.add_argument(
        "--topology", type=Path, required=True, metavar="FILE", help="what adasd serve --config reads"
    )
    render_.add_argument(
        "--cluster",
        type=Path,
        metavar="FILE",
        help="images, sizes of pods, volumes and ways in of the Kubernetes cluster",
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
    for action in (render_, check_):
        action.add_argument(
            "--models",
            type=Path,
            metavar="DIR",
            help="a folder here with the configuration files of the models in /models, to compute GPU memory",
        )
    for name, module in added(GROUP).items():
        actions.add_parser(name, help=summary(module))
    return made


def write(
    topology: Path, cluster: Path | None, out: Path | None, base: Path, models: Path | None = None
) -> int:
    """Render into a folder and print what else the cluster needs. ConfigError if a card is too small for its models."""
    if cluster is None:
        raise ConfigError(
            "the sizes and images of the pods are missing; name their file with --cluster FILE "
            "(an empty one is enough for the demo pair; docs/kubernetes.md lists what it may hold)"
        )
    facts = cluster_facts.read(cluster)
    config = topology_config(topology, facts)
    needs, found = memory_report(config, cards_of_facts(config, facts), models)
    if found:
        raise ConfigError("\n".join(found))
    folder = out or topology.parent
    try:
        if base.is_relative_to(PACKAGED):  # the overlay must work without this installation
            base = shutil.copytree(base, folder / "base", dirs_exist_ok=True)
        overlay = render(topology, facts, folder, base)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in overlay.files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the overlay to {folder}: {error}") from error
    print(f"Wrote {', '.join(overlay.files)} to {folder}.")
    for needed in overlay.needs:
        print(f"The cluster has to have {needed}.")
    for sentence in needs:
        print(f"GPU memory of {sentence}.")
    print(f"  kubectl apply --server-side -k {folder}")
    return 0


def check(stream: TextIO, existing: Sequence[str], models: Path | None = None) -> int:
    """Print every problem of the manifests in ``stream``, and the GPU memory of its tiers."""
    from cluster.k8s.relations import problems, served_config

    try:
        documents = [document for document in yaml.safe_load_all(stream) if document]
    except yaml.YAMLError as error:
        raise ConfigError(f"these are no manifests: {' '.join(str(error).split())}") from error
    for number, document in enumerate(documents, 1):
        if not is_manifest(document):
            raise ConfigError(f"these are no manifests: document {number} has no kind or no metadata.name")
    found = problems(documents, frozenset(existing))
    if not found:
        manifests = Manifests(documents)
        config = served_config(manifests)
        needs, found = memory_report(config, cards_of_manifests(config, manifests), models)
        for sentence in needs:
            print(f"GPU memory of {sentence}.")
    for sentence in found:
        print(f"✗ {sentence}")
    if not found:
        print(f"✓ {len(documents)} manifests fit together.")
    return 1 if found else 0
