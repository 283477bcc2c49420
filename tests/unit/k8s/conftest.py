from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest

from cluster.k8s import facts as cluster_facts
from cluster.k8s.render import render
from tests.unit.k8s.kustomize import build

K8S = Path(__file__).resolve().parents[3] / "k8s"
OVERLAYS = ("laptop", "single-gpu", "two-tier", "two-tier-tls")


@cache
def built(name: str) -> list[dict]:
    return build(K8S / "overlays" / name)


@cache
def needed(name: str) -> frozenset[str]:
    """What the overlay leaves to the operator, according to ``render``."""
    folder = K8S / "overlays" / name
    return frozenset(
        render(folder / "topology.yaml", cluster_facts.read(folder / "cluster.yaml"), folder).needs
    )


@pytest.fixture(params=OVERLAYS)
def overlay(request):
    return request.param


@pytest.fixture
def manifests(overlay):
    return copy.deepcopy(built(overlay))


@pytest.fixture
def two_tier():
    return copy.deepcopy(built("two-tier-tls"))
