"""The part of Kustomize that k8s/ uses: resources, ConfigMaps of files, namespace, JSON6902 patches, images.

Anything else is refused.
Tests cannot install kubectl; if it is there, test_overlays compares the two.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

KNOWN = {"apiVersion", "kind", "resources", "namespace", "patches", "images", "configMapGenerator"}
CLUSTER_SCOPED = {"Namespace"}


class BuildError(Exception):
    """A kustomization that cannot be built."""


def build(folder: Path) -> list[dict[str, Any]]:
    """The documents of a kustomization, in the order of its resources."""
    about = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := set(about) - KNOWN:
        raise BuildError(f"{folder}: not understood: {sorted(unknown)}")
    documents = [d for name in about.get("resources", []) for d in _resource(folder, name)]
    documents += [_config_map(folder, made) for made in about.get("configMapGenerator", [])]
    names = [(d["kind"], d["metadata"]["name"]) for d in documents]
    if len(set(names)) < len(names):
        raise BuildError(f"{folder}: the same resource twice")
    for patch in about.get("patches", []):
        _patch(documents, folder, patch)
    for document in documents:
        if "namespace" in about and document["kind"] not in CLUSTER_SCOPED:
            document["metadata"]["namespace"] = about["namespace"]
        for image in about.get("images", []):
            _rename_image(document, image)
    return documents


def _resource(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / name
    if path.is_dir():
        return build(path)
    documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    return copy.deepcopy(documents)  # aliases become separate values


def _config_map(folder: Path, made: dict[str, Any]) -> dict[str, Any]:
    options = made["options"]
    if set(made) != {"name", "files", "options"} or not options.get("disableNameSuffixHash"):
        raise BuildError(f"{folder}: a generated ConfigMap has a name, files, and a name without a hash")
    data = {Path(name).name: (folder / name).read_text() for name in made["files"]}
    metadata = {"name": made["name"], "labels": options.get("labels", {})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _patch(documents: list[dict[str, Any]], folder: Path, patch: dict[str, Any]) -> None:
    if set(patch) != {"path", "target"} or set(patch["target"]) != {"kind", "name"}:
        raise BuildError(f"{folder}: a patch has a path, and a target of kind and name")
    target = patch["target"]
    hit = [d for d in documents if (d["kind"], d["metadata"]["name"]) == (target["kind"], target["name"])]
    if not hit:
        raise BuildError(f"{folder}: no {target['kind']} {target['name']} to patch")
    for operation in yaml.safe_load((folder / patch["path"]).read_text()):
        for document in hit:
            apply(document, operation)


def apply(document: Any, operation: dict[str, Any]) -> None:
    """One JSON6902 operation (add, replace, remove), in place."""
    *parents, last = [p.replace("~1", "/").replace("~0", "~") for p in operation["path"].split("/")[1:]]
    for part in parents:
        document = document[int(part)] if isinstance(document, list) else document[part]
    value = copy.deepcopy(operation.get("value"))
    match operation["op"], document:
        case "add", list():
            document.insert(len(document) if last == "-" else int(last), value)
        case "add", dict():
            document[last] = value
        case "replace", list():
            document[int(last)] = value
        case "replace", dict() if last in document:
            document[last] = value
        case "remove", list():
            del document[int(last)]
        case "remove", dict() if last in document:
            del document[last]
        case _:
            raise BuildError(f"{operation['op']} {operation['path']}: there is nothing")


def _rename_image(node: Any, image: dict[str, str]) -> None:
    if isinstance(node, list):
        for item in node:
            _rename_image(item, image)
    elif isinstance(node, dict):
        for key in ("containers", "initContainers"):
            for container in node.get(key) or []:
                if container["image"].partition(":")[0] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
        for value in node.values():
            _rename_image(value, image)
