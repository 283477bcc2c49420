"""What a rank holds, by the plan, is what a rank loads; and the estimate of a configuration adds it up."""

import pytest

from adasd.config import EngineConfig
from adasd.engine.loading.memory import CUDA_RESERVE, memory_estimate, on_meta
from adasd.engine.parallel.footprint import num_caches, values_on_a_rank
from tests.qwen import write_configs
from tests.unit.engine.zoo import ZOO


@pytest.mark.parametrize(
    ("name", "shared_cache"),
    [
        ("llama", True),
        ("llama-tied-biased", True),
        ("qwen3", True),
        ("mixtral", True),
        ("phi3", False),
        ("olmo2", False),
    ],
)
def test_a_rank_holds_its_part_of_matrices_and_all_of_the_norms(name, shared_cache):
    model = on_meta(ZOO[name](), False)
    whole = sum(parameter.numel() for parameter in model.parameters())
    small = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 1)
    assert values_on_a_rank(model, 1) == whole
    held = values_on_a_rank(model, 2)
    unshared = sum(
        p.numel() for n, p in model.named_parameters() if "router" in n or n.endswith("gate.weight")
    )
    assert whole / 2 <= held <= (whole + small + unshared) / 2 + small
    assert num_caches(model, 2) == (2 if shared_cache else 1)


def test_four_cards_hold_a_72b_model_and_its_estimate_is_over_all_of_them(tmp_path):
    models = write_configs(tmp_path)
    config = EngineConfig(
        str(models / "Qwen2.5-72B-Instruct"), device="cuda", tensor_parallel=4, max_context=4096
    )
    found, one = (
        memory_estimate(config),
        memory_estimate(EngineConfig(config.model, device="cuda", max_context=4096)),
    )
    assert found.reserve_bytes == 4 * CUDA_RESERVE
    assert found.bytes_per_slot == one.bytes_per_slot
    assert 1.0 < found.weights_bytes / one.weights_bytes < 1.001  # norms are on every card


def test_ranks_on_a_cpu_share_the_memory_of_the_machine(tmp_path):
    models = write_configs(tmp_path)
    settings = {"device": "cpu", "cache": "paged"}
    one, two = (
        memory_estimate(EngineConfig(str(models / "Qwen2.5-7B-Instruct"), tensor_parallel=num, **settings))
        for num in (1, 2)
    )
    assert one.cache_limit is not None
    assert two.cache_limit is not None
    assert abs(one.cache_limit - two.cache_limit) <= 2
