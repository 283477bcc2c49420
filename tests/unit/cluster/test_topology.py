"""Topology: a tier's settings as Ray options, and one sentence on what no node has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adasd.config import EngineConfig
from cluster.topology import Node, actor_options, matches, missing, num_cpus, placement_group
from services.config import OrchestratorConfig, ServeConfig, TierConfig


def tier(**wishes) -> TierConfig:
    return replace(TierConfig(EngineConfig("model")), **wishes)


def pair(target: TierConfig, draft: TierConfig | None = None) -> ServeConfig:
    return ServeConfig(target=target, draft=draft)


LAPTOP = Node("127.0.0.1", {"CPU": 2.0}, {})
SMALL = Node("10.0.0.2", {"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0}, {"pool": "draft"})
LARGE = Node("10.0.0.3", {"CPU": 16.0, "GPU": 1.0, "accelerator_type:H100": 1.0}, {"pool": "target"})


def test_options_name_only_what_was_wished_for():
    assert actor_options(tier()) == {"num_cpus": 0.5, "num_gpus": 0.0}
    assert actor_options(
        tier(
            num_gpus=0.5,
            accelerator_type="L4",
            resources=(("slot", 1.0),),
            label_selector=(("pool", "draft"),),
        )
    ) == {
        "num_cpus": 0.5,
        "num_gpus": 0.5,
        "accelerator_type": "L4",
        "resources": {"slot": 1.0},
        "label_selector": {"pool": "draft"},
    }


def test_a_large_target_takes_all_its_cards_on_one_node_or_none():
    parallel = tier(
        engine=EngineConfig("model", tensor_parallel=4),
        num_gpus=4.0,
        resources=(("slot", 1.0),),
        accelerator_type="H100",
        label_selector=(("pool", "target"),),
    )
    assert placement_group(tier(num_gpus=1.0)) == {}
    each = {"CPU": 0.125, "GPU": 1.0, "accelerator_type:H100": 0.001}
    assert placement_group(parallel) == {
        "placement_group_bundles": [{**each, "slot": 1.0}, each, each, each],
        "placement_group_strategy": "STRICT_PACK",
        "placement_group_bundle_label_selector": [{"pool": "target"}] * 4,
    }
    options = actor_options(parallel)
    assert (options["num_cpus"], options["num_gpus"], options["resources"]) == (0.125, 1.0, {"slot": 1.0})
    four = Node(
        "10.0.0.4", {"CPU": 8.0, "GPU": 4.0, "accelerator_type:H100": 1.0, "slot": 1.0}, {"pool": "target"}
    )
    assert missing(pair(parallel), [four]) == []
    (sentence,) = missing(pair(parallel), [LARGE, LARGE, LARGE, LARGE])
    assert "no node has 4 GPU, the most is 1" in sentence


def test_ranks_on_cpus_take_a_cpu_each():
    parallel = tier(engine=EngineConfig("model", tensor_parallel=4))
    assert missing(pair(parallel), [SMALL]) == []
    (sentence,) = missing(pair(parallel), [LAPTOP])
    assert sentence == (
        "target: tensor_parallel is 4, but no node has more than 2 CPUs, and each rank takes one; set it to 2 or less"
    )


@pytest.mark.parametrize("share", [0.5, 0.6, 0.7, 0.8, 0.9])
def test_two_shares_of_a_card_that_make_one_fit(share):
    both = pair(tier(num_gpus=share), tier(num_gpus=round(1 - share, 1)))
    assert missing(both, [SMALL]) == []
    assert missing(pair(tier(num_gpus=share), tier(num_gpus=round(1.1 - share, 1))), [SMALL]) != []


def test_the_demo_pair_fits_a_laptop():
    assert missing(pair(tier(), tier()), [LAPTOP]) == []
    assert num_cpus(pair(tier(), tier())) == pytest.approx(1.11)
    two = replace(pair(tier(), tier()), orchestrator=OrchestratorConfig(replicas=2))
    assert num_cpus(two) == pytest.approx(1.21)


def test_two_tiers_find_their_own_nodes():
    draft = tier(num_gpus=1.0, accelerator_type="L4", label_selector=(("pool", "draft"),))
    target = tier(num_gpus=1.0, accelerator_type="H100", label_selector=(("pool", "target"),))
    assert missing(pair(target, draft), [SMALL, LARGE]) == []


def test_halves_of_one_card_fit_and_two_whole_ones_do_not():
    assert missing(pair(tier(num_gpus=0.5), tier(num_gpus=0.5)), [SMALL]) == []
    (sentence,) = missing(pair(tier(num_gpus=1.0), tier(num_gpus=1.0)), [SMALL])
    assert sentence.startswith("draft: 0 of 1 replicas can be placed")
    assert "already taken" in sentence


def test_the_sentence_names_the_resource_that_no_node_has():
    (sentence,) = missing(pair(tier(num_gpus=1.0, accelerator_type="H100")), [SMALL])
    assert "no node has 0.001 accelerator_type:H100, the most is 0" in sentence


def test_the_sentence_names_the_label_and_what_there_is_instead():
    (sentence,) = missing(pair(tier(label_selector=(("pool", "huge"),))), [SMALL, LARGE])
    assert "no node is labelled pool=huge, found: draft, target" in sentence


def test_replicas_spread_over_nodes_and_are_counted():
    three = tier(min_replicas=3, max_replicas=3, num_gpus=1.0)
    (sentence,) = missing(pair(three), [SMALL, LARGE])
    assert sentence.startswith("target: 2 of 3 replicas can be placed")


def test_an_empty_tier_fits_nowhere_and_everywhere():
    assert missing(pair(tier(), tier(min_replicas=0, max_replicas=2, num_gpus=8.0)), [LAPTOP]) == []


@pytest.mark.parametrize(
    ("actual", "wanted", "fits"),
    [
        ("L4", "L4", True),
        ("L4", "H100", False),
        (None, "L4", False),
        ("L4", "!L4", False),
        (None, "!L4", True),
        ("H200", "in(H100, H200)", True),
        ("T4", "in(H100,H200)", False),
        ("T4", "!in(H100,H200)", True),
    ],
)
def test_label_selectors_read_as_ray_reads_them(actual, wanted, fits):
    assert matches(actual, wanted) is fits
