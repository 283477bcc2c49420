"""The example topologies can be read, fit the clusters that they are meant for, and fit no smaller ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.data import DEMO
from cluster.topology import Node, missing
from services import settings

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def node(cpus: float, gpus: float = 0.0, card: str = "") -> Node:
    resources = {"CPU": cpus, "GPU": gpus} | ({f"accelerator_type:{card}": 1.0} if card else {})
    return Node(f"{gpus:g} {card}", resources, {})


HEAD, L4, H100, FOUR = node(2.0), node(8.0, 1.0, "L4"), node(16.0, 1.0, "H100"), node(32.0, 4.0, "H100")


@pytest.mark.parametrize(
    ("name", "fits", "too_small", "lacks"),
    [
        ("laptop", [HEAD], [node(0.5)], "draft: 0 of 1"),
        ("single-gpu", [node(4.0, 1.0)], [HEAD], "no node has 0.7 GPU, the most is 0"),
        ("l4-h100", [HEAD, L4, H100], [HEAD, L4], "no node has 0.001 accelerator_type:H100"),
        ("large-target", [L4, FOUR], [L4, H100, H100, H100, H100], "no node has 4 GPU, the most is 1"),
    ],
)
def test_an_example_fits_its_cluster_and_says_what_a_smaller_one_lacks(name, fits, too_small, lacks):
    config = settings.load({}, {}, EXAMPLES / f"{name}.yaml", demo=DEMO)
    assert missing(config, fits) == []
    assert lacks in "; ".join(missing(config, too_small))


def test_every_example_is_tested():
    """cards.yaml is no configuration; tests/unit/cluster/cli/test_simulate.py reads it."""
    assert {file.stem for file in EXAMPLES.glob("*.yaml")} - {"cards"} == {
        "laptop",
        "single-gpu",
        "l4-h100",
        "large-target",
    }
