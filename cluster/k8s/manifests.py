"""A stream of Kubernetes manifests as the things it deploys: pod templates, groups, the Serve configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

Document = Mapping[str, Any]


def is_manifest(document: Any) -> bool:
    """Whether it has the two fields that every Kubernetes object has: a kind and a name."""
    if not isinstance(document, Mapping) or not isinstance(document.get("metadata"), Mapping):
        return False
    return isinstance(document.get("kind"), str) and isinstance(document["metadata"].get("name"), str)


@dataclass(frozen=True, slots=True)
class PodTemplate:
    """The pod template of the head or of one group."""

    group: str  # head, or the worker group's name
    labels: Mapping[str, str]  # of the pods
    spec: Mapping[str, Any]

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """Init containers come first."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ray(self) -> Mapping[str, Any]:
        """The container that runs Ray."""
        return self.spec["containers"][0]  # type: ignore[no-any-return]

    @property
    def ports(self) -> dict[str, int]:
        """Named ports of the Ray container."""
        return {port["name"]: port["containerPort"] for port in self.ray.get("ports", [])}


@dataclass(frozen=True, slots=True)
class Manifests:
    """Documents of one build with one RayService."""

    documents: Sequence[Document]

    def of_kind(self, kind: str) -> list[Document]:
        return [document for document in self.documents if document["kind"] == kind]

    def has(self, kind: str, name: str) -> bool:
        return any(
            d["kind"].lower() == kind.lower() and d["metadata"]["name"] == name for d in self.documents
        )

    @property
    def spec(self) -> Mapping[str, Any]:
        """The RayService's spec."""
        return self.of_kind("RayService")[0]["spec"]  # type: ignore[no-any-return]

    @property
    def cluster(self) -> Mapping[str, Any]:
        return self.spec["rayClusterConfig"]  # type: ignore[no-any-return]

    @property
    def groups(self) -> Sequence[Mapping[str, Any]]:
        """Worker groups."""
        return self.cluster.get("workerGroupSpecs", [])  # type: ignore[no-any-return]

    @property
    def serve(self) -> Mapping[str, Any]:
        """serveConfigV2, parsed."""
        return yaml.safe_load(self.spec.get("serveConfigV2") or "{}") or {}

    @property
    def application(self) -> Mapping[str, Any]:
        """The one application; empty if there is none."""
        return (self.serve.get("applications") or [{}])[0]  # type: ignore[no-any-return]

    def pods(self) -> Iterator[PodTemplate]:
        """The head's template, then the groups'."""
        parts = [("head", self.cluster["headGroupSpec"]), *((g["groupName"], g) for g in self.groups)]
        for name, part in parts:
            template = part["template"]
            yield PodTemplate(name, template.get("metadata", {}).get("labels", {}), template["spec"])

    def selected(self, labels: Mapping[str, str]) -> list[PodTemplate]:
        """The templates whose pods have all of these labels."""
        return [pod for pod in self.pods() if labels.items() <= pod.labels.items()]
