"""A small random model of the same structure as a configuration describes, for trying it out before weights are read.

It has the model's own classes, one layer of each kind, its head dimensions and its rotary scheme; but few heads, a
narrow width, few experts, a small vocabulary and short windows, so that making and running it takes milliseconds.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from adasd.engine.loading.context import rope_schemes
from adasd.errors import ConfigError

WINDOW = 8
"""Visible tokens of a sliding window or chunk, and tokens after which attention temperatures rise."""

NATIVE_CONTEXT = 12
"""Context that a rotary scheme was trained for, where the engine is to serve a longer one."""

_VOCAB_SIZE, _FEED_FORWARD, _EXPERTS, _CHOSEN, _HEADS = 128, 32, 4, 2, 4
_MOST_LAYERS = 8
_AT_MOST = {
    "vocab_size": _VOCAB_SIZE,
    "vocab_size_per_layer_input": _VOCAB_SIZE,
    "hidden_size_per_layer_input": 16,
    "intermediate_size": _FEED_FORWARD,
    "moe_intermediate_size": _FEED_FORWARD,
    "shared_expert_intermediate_size": _FEED_FORWARD,
    "shared_intermediate_size": _FEED_FORWARD,
    "expert_ffn_hidden_size": _FEED_FORWARD,
    "ffn_hidden_size": _FEED_FORWARD,
    "intermediate_size_mlp": _FEED_FORWARD,
    "ffn_dim": _FEED_FORWARD,
    "num_local_experts": _EXPERTS,
    "num_experts": _EXPERTS,
    "n_routed_experts": _EXPERTS,
    "moe_num_experts": _EXPERTS,
    "num_experts_per_tok": _CHOSEN,
    "top_k_experts": _CHOSEN,
    "moe_topk": _CHOSEN,
    "moe_k": _CHOSEN,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "sliding_window": WINDOW,
    "attention_chunk_size": WINDOW,
    "window_size": WINDOW,
    "floor_scale": WINDOW,
    "max_window_layers": 1,
    "pad_token_id": _VOCAB_SIZE - 1,
    "bos_token_id": _VOCAB_SIZE - 1,
    "eos_token_id": _VOCAB_SIZE - 1,
}
"""Sizes that do not change which operations a model is made of, and what they become."""

_TOWERS = ("vision_config", "audio_config")
_DEPTHS = ("num_hidden_layers", "depth", "num_layers")


def model_factory(config: PreTrainedConfig) -> Any:
    """The Auto class that makes this model; ConfigError if it is no language model that transformers can make."""
    for factory in (AutoModelForCausalLM, AutoModelForImageTextToText):
        if type(config) in factory._model_mapping or factory.__name__ in (
            getattr(config, "auto_map", None) or {}
        ):
            return factory
    raise ConfigError(
        f"{(config.architectures or [config.model_type])[0]} is no causal language model that transformers can make; "
        "choose a model of another architecture"
    )


def miniature(config: PreTrainedConfig, *, beyond_native: bool) -> PreTrainedConfig:
    """The configuration of the small model. ``beyond_native``: contexts are longer than the rotary scheme's own."""
    small = copy.deepcopy(config)
    vars(small).pop("quantization_config", None)  # the miniature is in float32
    text = small.get_text_config()
    overrides = _per_layer(text)
    _shrink_layers(text, overrides)
    _shrink_heads(text)
    for name, most in _AT_MOST.items():
        _lower(text, name, most)
    for tower in _TOWERS:
        for name in _DEPTHS:
            _lower(getattr(small, tower, None), name, 1)
    for scheme in rope_schemes(text):
        if scheme.get("original_max_position_embeddings"):
            native = NATIVE_CONTEXT if beyond_native else 8 * NATIVE_CONTEXT
            scheme["original_max_position_embeddings"] = native
    if overrides:
        text.per_layer_config = {layer: values for layer, values in overrides.items()}
    # far from uniform attention, so that a wrong mask shows
    text.initializer_range = 1.5 / text.hidden_size**0.5
    return small


def random_model(config: PreTrainedConfig, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model with random weights in float32; the state of torch's random numbers is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: PreTrainedModel = model_factory(config).from_config(
            copy.deepcopy(config), dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    made.train(False)
    return made


def outgrows(config: PreTrainedConfig, max_context: int) -> bool:
    """Whether sessions may be longer than the context that a rotary scheme was trained for."""
    schemes = rope_schemes(config.get_text_config())
    natives = [scheme.get("original_max_position_embeddings") for scheme in schemes]
    return any(native is not None and max_context > native for native in natives)


def _per_layer(text: Any) -> dict[int, dict[str, Any]]:
    """What single layers have different from the rest (Gemma 4's wider global heads); removed from ``text``.

    Nearest reading of transformers' ``per_layer_config``, which forbids to read such values from the whole.
    """
    if not getattr(text, "is_heterogeneous", False):
        return {}
    spec = text._heterogeneity_spec
    text.per_layer_config = None
    return {layer: dict(values) for layer, values in spec.per_layer_overrides.items()}


def _shrink_heads(text: Any) -> None:
    """Few heads, with as many key-value heads in proportion: one, some or all."""
    num_heads = int(text.num_attention_heads)
    head_dim = int(getattr(text, "head_dim", None) or int(text.hidden_size) // num_heads)
    heads = min(num_heads, _HEADS)
    for name in ("num_key_value_heads", "num_global_key_value_heads", "num_kv_heads"):
        shared = getattr(text, name, None)
        if isinstance(shared, int):
            setattr(text, name, heads if shared >= num_heads else min(shared, heads // 2))
    text.num_attention_heads = heads
    text.hidden_size = heads * head_dim


def _shrink_layers(text: Any, overrides: dict[int, dict[str, Any]]) -> None:
    """One layer of each kind, at least two. A kind is what the lists with one entry per layer say.

    ``overrides`` are renumbered.
    """
    num_layers = int(text.num_hidden_layers)
    lists = {
        name: value
        for name, value in vars(text).items()
        if isinstance(value, list | tuple) and len(value) == num_layers
    }
    shared_from = num_layers - int(getattr(text, "num_kv_shared_layers", None) or 0)
    kinds = [
        repr([overrides.get(i), i >= shared_from, *(value[i] for value in lists.values())])
        for i in range(num_layers)
    ]
    kept = sorted({kind: i for i, kind in reversed(list(enumerate(kinds)))}.values())[:_MOST_LAYERS]
    while len(kept) < min(2, num_layers):
        kept.append(min(set(range(num_layers)) - set(kept)))
    kept.sort()
    for name, value in lists.items():
        setattr(text, name, type(value)(value[i] for i in kept))
    if shared_from < num_layers:
        text.num_kv_shared_layers = sum(i >= shared_from for i in kept)
    text.num_hidden_layers = len(kept)
    for layer in list(overrides):
        values = overrides.pop(layer)
        if layer in kept:
            overrides[kept.index(layer)] = values


def _lower(config: Any, name: str, most: int) -> None:
    value = getattr(config, name, None)
    if isinstance(value, list | tuple):
        setattr(config, name, type(value)(min(one, most) if isinstance(one, int) else one for one in value))
    elif isinstance(value, int) and not isinstance(value, bool):
        setattr(config, name, min(value, most))
