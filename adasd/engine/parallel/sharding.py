"""Which models can be laid over several ranks, and how each rank reads its shard.

transformers shards a model by its ``tp_plan``: columns of some matrices, rows of others, and the vocabulary
(``transformers.distributed``). Each rank reads only its part of the weight files.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.distributed.tensor_parallel import get_kv_heads_per_rank
from transformers.distributed.utils import initialize_distributed_mesh

from adasd.config import EngineConfig
from adasd.engine.forward.trial import way_of
from adasd.engine.loading.limits import intended_device
from adasd.engine.loading.memory import on_meta
from adasd.errors import ConfigError

EXTRA = "cuda"


def check_sharding(config: EngineConfig, model_config: PreTrainedConfig, max_context: int) -> None:
    """Raise ConfigError unless ``config.tensor_parallel`` ranks can serve the model; reads no weights."""
    num = config.tensor_parallel
    if num == 1:
        return
    unserved = {
        "weights is int8": config.weights == "int8",
        "there is an adapter": config.adapter is not None,
        "early_exit is on": config.early_exit,
        "compile is on": config.compile == "on",
        "the checkpoint is quantised": getattr(model_config, "quantization_config", None) is not None,
    }
    for what, holds in unserved.items():
        if holds:
            raise ConfigError(
                f"tensor_parallel is {num}, but {what}: several ranks run full weights through the model's own "
                "modules; change one of the two"
            )
    device = intended_device(config.device)
    if config.device.startswith("cuda:"):
        raise ConfigError(
            f"device is {config.device}, but tensor_parallel is {num}: each rank takes the card that Ray grants it; "
            "set device to cuda"
        )
    if device.type == "cuda" and find_spec("accelerate") is None:
        raise ConfigError(
            f"tensor_parallel is {num}, and shards are put on cards by accelerate, which is missing: "
            f"pip install 'adasd-serve[{EXTRA}]'"
        )
    model = on_meta(model_config, config.trust_remote_code)
    name = type(model).__name__
    if not model.tp_plan:
        raise ConfigError(
            f"tensor_parallel is {num}, but transformers has no tensor parallel plan for {name}; set tensor_parallel "
            "to 1"
        )
    _check_heads(num, model)
    if (way := way_of(model_config, max_context, config.trust_remote_code)) != "modules":
        raise ConfigError(
            f"tensor_parallel is {num}, but {name} is run by its {way}, which is on one rank only; set tensor_parallel "
            "to 1"
        )


def _check_heads(num: int, model: PreTrainedModel) -> None:
    """Heads are divided among the ranks, unless the plan gathers them."""
    text: Any = model.config.get_text_config()
    for kind, heads in (
        ("attention heads", text.num_attention_heads),
        ("key-value heads", getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
    ):
        if get_kv_heads_per_rank(model.tp_plan, heads, num) is None:
            raise ConfigError(
                f"tensor_parallel is {num}, but {type(model).__name__} has {heads} {kind}, which {num} ranks cannot "
                "share evenly; choose a number that divides them"
            )


def sharded_factory(config: EngineConfig, model_config: PreTrainedConfig) -> tuple[Any, dict[str, Any]]:
    """The class whose ``from_pretrained`` reads this rank's shard, and further arguments of that call.

    transformers names a device for the shard, for which it needs accelerate. On a CPU that is not needed.
    """
    cls = type(on_meta(model_config, config.trust_remote_code))

    def prepared(
        _: type, wanted: DistributedConfig, device_map: object = None
    ) -> tuple[DistributedConfig, object, object]:
        device, mesh = initialize_distributed_mesh(wanted)
        return wanted, None if device is None or device.type == "cpu" else device, mesh

    found = {"__module__": cls.__module__, "prepare_distribute_model": classmethod(prepared)}
    distributed: Mapping[str, Any] = {"distributed_config": DistributedConfig(tp_size=config.tensor_parallel)}
    return type(cls.__name__, (cls,), found), dict(distributed)
