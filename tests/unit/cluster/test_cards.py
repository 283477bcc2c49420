"""What a card holds, which replicas share one, and whether every example fits the cards that it is meant for."""

from __future__ import annotations

from pathlib import Path

import pytest

from adasd.config import EngineConfig
from adasd.engine.loading.memory import CUDA_RESERVE, MemoryEstimate
from cluster.cards import GIB, Card, card_bytes, cards_of, too_small
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


@pytest.mark.parametrize(
    ("example", "card", "needs"),
    [
        (
            "l4-h100",
            {},
            ["target: 61.0 GiB weights + 12.0 GiB cache + 2.0 GiB", "draft: 0.9 GiB weights + 3.0 GiB"],
        ),
        ("large-target", {}, ["target: 135.4 GiB weights + 40.0 GiB cache + 8.0 GiB reserve over 4 cards"]),
        (
            "single-gpu",
            {"target": ("L40S", card_bytes("L40S"))},
            ["target: 14.2 GiB weights + 7.0 GiB cache"],
        ),
    ],
)
def test_an_example_fits_its_cards(models, example, card, needs):
    config = settings.load({}, {}, EXAMPLES / f"{example}.yaml", demo=DEMO)
    said, found = memory_report(config, card, models)
    assert found == []
    assert all(any(sentence.startswith(need) for sentence in said) for need in needs), said


def test_an_example_that_took_more_slots_would_not_fit(models):
    config = settings.load({"target.num_slots": 32}, {}, EXAMPLES / "l4-h100.yaml", demo=DEMO)
    (sentence,) = memory_report(config, {}, models)[1]
    assert "target take 95.0 GiB of H100, which has 79.2 GiB" in sentence
    assert "set num_slots to 16 or less" in sentence
    assert CUDA_RESERVE == 2 * GIB


def test_a_model_whose_configuration_is_not_here_is_not_looked_up_elsewhere(tmp_path):
    config = settings.load({}, {}, EXAMPLES / "l4-h100.yaml", demo=DEMO)
    said, found = memory_report(config, {}, tmp_path)
    assert found == []
    assert (
        "target: memory not checked, as there is no config.json of Qwen/Qwen2.5-32B-Instruct here" in said[0]
    )
