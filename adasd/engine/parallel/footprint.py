"""How much of a model one rank holds, by transformers' plan: no weights and no ranks are needed."""

from __future__ import annotations

import re
from typing import Any

from transformers import PreTrainedModel
from transformers.distributed.tensor_parallel import get_kv_heads_per_rank

_REPLICATED = ("replicate", "replicated_with_grad_allreduce", "all_reduce", "mla_kv_a_proj", "local_params")
"""Styles of modules whose parameters every rank holds in full."""


def values_on_a_rank(model: PreTrainedModel, num_ranks: int) -> int:
    """Numbers in the parameters that one of the ranks holds; those outside of the plan are on all of them."""
    if num_ranks == 1:
        return sum(parameter.numel() for parameter in model.parameters())
    return sum(
        -(-parameter.numel() // num_ranks) if _is_shared(name, model.tp_plan) else parameter.numel()
        for name, parameter in model.named_parameters()
    )


def num_caches(model: PreTrainedModel, num_ranks: int) -> int:
    """Ranks that a token's keys and values are divided among; 1: all heads are on every rank."""
    text: Any = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return 1 if get_kv_heads_per_rank(model.tp_plan, heads, num_ranks) == heads else num_ranks


def _is_shared(name: str, plan: dict[str, str]) -> bool:
    general = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
    style = plan.get(general) or plan.get(general.rpartition(".")[0])
    return style is not None and style not in _REPLICATED
