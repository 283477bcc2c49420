"""What a card holds, which replicas share one, and whether every example fits the cards that it is meant for."""

from __future__ import annotations

from pathlib import Path

import pytest

from adasd.config import EngineConfig
from adasd.engine.loading.memory import CUDA_RESERVE, MemoryEstimate
from cluster.cards import GIB, Card, card_bytes, cards_of, said, too_small
from cluster.data import DEMO
from cluster.k8s.memory import memory_report
from services import settings
from services.config import ServeConfig, TierConfig
from tests.qwen import write_configs

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return write_configs(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("L4", 22),
        ("NVIDIA-L4", 22),
        ("NVIDIA-L40S", 44),
        ("H100", 79),
        ("NVIDIA-H100-80GB-HBM3", 78),
        ("NVIDIA-A100-SXM4-40GB", 39),
        ("A100-80G", 78),
        ("Tesla-T4", 14),
        ("NVIDIA H200", 139),
    ],
)
def test_a_card_is_known_by_its_type_or_its_label(name, gib):
    assert card_bytes(name) // GIB == gib


def test_a_card_that_nobody_knows_has_no_size():
    assert card_bytes("TPU-V5") is None


def tier(num_gpus: float, most: int = 1, **more) -> TierConfig:
    return TierConfig(EngineConfig("m", device="cuda"), num_gpus=num_gpus, max_replicas=most, **more)


@pytest.mark.parametrize(
    ("target", "draft", "roles"),
    [
        (tier(1), tier(1), [("target",), ("draft",)]),
        (tier(0.7), tier(0.3), [("target", "draft")]),
        (tier(0.7), tier(0.5), [("target",), ("draft",)]),
        (tier(0.4), tier(0.2, most=9), [("target", "draft", "draft", "draft")]),
        (tier(0.5, accelerator_type="H100"), tier(0.5, accelerator_type="L4"), [("target",), ("draft",)]),
        (TierConfig(EngineConfig("m", device="cpu")), tier(1), [("draft",)]),
    ],
)
def test_replicas_with_parts_of_a_gpu_and_the_same_wishes_share_a_card(target, draft, roles):
    assert [card.roles for card in cards_of(ServeConfig(target, draft))] == roles


def test_auto_is_the_cpu_where_ray_grants_no_gpu_and_cuda_where_it_does():
    engine = EngineConfig("m")
    assert [TierConfig(engine, num_gpus=n).placed_engine.device for n in (0.0, 0.5)] == ["cpu", "cuda"]
    assert TierConfig(EngineConfig("m", device="cuda:1"), num_gpus=1).placed_engine.device == "cuda:1"


def test_replicas_on_one_card_are_added_up_and_the_sentence_says_what_would_fit():
    engines = {role: EngineConfig("m", device="cuda") for role in ("target", "draft")}
    estimates = {
        "target": MemoryEstimate(10 * GIB, GIB, 8, 2 * GIB),
        "draft": MemoryEstimate(GIB, GIB, 1, GIB),
    }
    assert too_small(Card(("target", "draft"), 23 * GIB, "X"), estimates, engines) is None
    sentence = too_small(Card(("target", "draft"), 22 * GIB, "X"), estimates, engines)
    assert sentence is not None
    assert "target and draft take 23.0 GiB of X, which has 22.0 GiB" in sentence
    assert "set num_slots to 7 or less" in sentence
    sentence = too_small(Card(("target", "draft"), 12 * GIB, "X"), estimates, engines)
    assert sentence is not None
    assert "choose a smaller model or a larger card" in sentence
    assert too_small(Card(("target",), None, "X"), estimates, engines) is None


def on_pages(weights: float, cache: float, least: float, share: float) -> MemoryEstimate:
    """Sizes in GiB; ten slots, whose cache the card decides."""
    return MemoryEstimate(
        int(weights * GIB),
        int(cache * GIB) // 10,
        10,
        2 * GIB,
        8192,
        least_cache_bytes=int(least * GIB),
        gpu_share=share,
    )


def test_a_paged_cache_takes_what_its_share_of_the_card_leaves_and_no_more_than_all_slots_use():
    engine, estimate = EngineConfig("m", device="cuda"), on_pages(10, 20, 1, 0.9)
    assert estimate.cache_bytes_on(100 * GIB) == 20 * GIB
    assert estimate.cache_bytes_on(30 * GIB) == 15 * GIB
    assert too_small(Card(("target",), 30 * GIB, "X"), {"target": estimate}, {"target": engine}) is None
    assert "10.0 GiB weights + 15.0 GiB cache (7 of 10 sessions of 8192 tokens) + 2" in said(
        estimate, engine, 30 * GIB
    )


def test_a_share_that_holds_no_session_is_a_problem_before_anything_is_loaded():
    engines, estimates = {"target": EngineConfig("m", device="cuda")}, {"target": on_pages(10, 40, 4, 0.5)}
    assert too_small(Card(("target",), 32 * GIB, "X"), estimates, engines) is None
    sentence = too_small(Card(("target",), 31 * GIB, "X"), estimates, engines)
    assert sentence is not None
    assert "takes at least 16.0 GiB of X" in sentence
    assert "gpu_memory_utilization 0.5 grants 15.5 of 31.0 GiB" in sentence


def test_replicas_on_one_card_whose_shares_add_up_to_more_than_it_are_a_problem_if_they_would_use_it():
    engines = {role: EngineConfig("m", device="cuda") for role in ("target", "draft")}
    card = Card(("target", "draft"), 40 * GIB, "X")
    greedy = {role: on_pages(10, 30, 1, 0.9) for role in engines}
    sentence = too_small(card, greedy, engines)
    assert sentence is not None
    assert "gpu_memory_utilization is 0.9 + 0.9; lower it to at most 1" in sentence
    assert too_small(card, {role: on_pages(10, 6, 1, 0.9) for role in engines}, engines) is None
    assert too_small(card, {role: on_pages(10, 30, 1, 0.45) for role in engines}, engines) is None


def test_a_part_of_a_gpu_is_that_part_of_its_memory_unless_another_is_said():
    def share(num_gpus: float, **settings: float) -> float:
        return TierConfig(EngineConfig("m", **settings), num_gpus=num_gpus).placed_engine.gpu_share

    assert [share(n) for n in (0.7, 1.0, 4.0)] == [0.63, 0.9, 0.9]
    assert share(0.7, gpu_memory_utilization=0.5) == 0.5


@pytest.mark.parametrize(
    ("example", "card", "needs"),
    [
        (
            "l4-h100",
            {},
            [
                "target: 61.0 GiB weights + 8.3 GiB cache (1 of 12 sessions of 32768 tokens) + 2.0 GiB",
                "draft: 0.9 GiB weights + 16.9 GiB cache (45 of 64 sessions of 32768 tokens) + 2.0 GiB",
            ],
        ),
        ("large-target", {}, ["target: 135.4 GiB weights +"]),
        (
            "single-gpu",
            {role: ("L40S", card_bytes("L40S")) for role in ("target", "draft")},
            ["target: 14.2 GiB weights + 11.8 GiB cache", "draft: 0.9 GiB weights + 9.1 GiB cache"],
        ),
    ],
)
def test_an_example_fits_its_cards(models, example, card, needs):
    config = settings.load({}, {}, EXAMPLES / f"{example}.yaml", demo=DEMO)
    said, found = memory_report(config, card, models)
    assert found == []
    assert all(any(sentence.startswith(need) for sentence in said) for need in needs), said


def test_an_example_on_a_smaller_card_would_not_fit(models):
    config = settings.load({"target.accelerator_type": "L40S"}, {}, EXAMPLES / "l4-h100.yaml", demo=DEMO)
    (sentence,) = memory_report(config, {}, models)[1]
    assert "target takes at least 63.1 GiB of L40S" in sentence
    assert "grants 40.0 of 44.4 GiB" in sentence
    assert CUDA_RESERVE == 2 * GIB


def test_a_model_whose_configuration_is_not_here_is_not_looked_up_elsewhere(tmp_path):
    config = settings.load({}, {}, EXAMPLES / "l4-h100.yaml", demo=DEMO)
    said, found = memory_report(config, {}, tmp_path)
    assert found == []
    assert (
        "target: memory not checked, as there is no config.json of Qwen/Qwen2.5-32B-Instruct here" in said[0]
    )
