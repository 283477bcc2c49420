"""Chooses the forward pass of a model: C kernels, stacked torch operations, or the model's own modules."""

from __future__ import annotations

import copy
import logging
import time
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from adasd.config import EngineConfig
from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.prefix_cache import PrefixCache
from adasd.engine.forward import fast_llama
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.batch_invariant import BatchInvariant
from adasd.engine.forward.early_exit import EarlyExitForward
from adasd.engine.forward.graphs import CudaGraphs
from adasd.engine.forward.int8 import is_int8
from adasd.engine.forward.native import forward as native
from adasd.engine.forward.own_attention import OwnAttention
from adasd.engine.forward.paged_attention import fits
from adasd.engine.forward.protocol import Forward
from adasd.engine.forward.static_forward import StaticForward
from adasd.engine.forward.trial import module_forward
from adasd.engine.loading.limits import is_paged
from adasd.engine.work import StepInput
from adasd.errors import ConfigError

_log = logging.getLogger(__name__)

WIDTHS = (1, 6, 24)
"""Tokens of the passes that are timed: plain decoding, one block, several sessions."""

MAX_WIDTH = 2048
"""Wider models are not timed, as copying a layer would take too long; the kernels compute those that sixteen bits hold,
as they read half of the memory that torch reads.
"""

_CONTEXT, _NUM_TIMED = 64, 12


def choose_forward(
    model: PreTrainedModel,
    config: EngineConfig,
    max_context: int,
    fast: bool | None,
    like: PreTrainedConfig | None = None,
) -> Forward:
    """The forward pass of a loaded model, which it modifies; batch-invariant if ``config.deterministic``.

    ``fast``: a hand-written forward pass (True: required, None: where it fits, False: never). ``config.compile``
    says whether that may be the C kernels. Raises ConfigError if a required one does not fit.
    ``like``: the configuration that decides how to run the modules, if ``model`` is only a miniature of it.
    """
    if config.early_exit:
        if config.deterministic:
            raise ConfigError("deterministic is not possible with early_exit; switch one of the two off")
        return _with_exits(model, config, max_context)
    kernels = None if fast is False else _kernels(model, config, max_context)
    if kernels is not None:
        return kernels
    chosen = _torchs(model, max_context, fast, like or model.config, config.trust_remote_code)
    if config.deterministic:
        return BatchInvariant(chosen)
    records = not isinstance(chosen, OwnAttention)
    if chosen.device.type == "cuda" and records and can_record(chosen, config):
        return StaticForward(chosen, CudaGraphs(chosen.device), insists=config.compile == "on")
    return chosen


def can_record(forward: Forward, config: EngineConfig) -> bool:
    """Whether passes of fixed sizes are recorded: over pages, and unless required where FlashAttention reads them.

    Without it, a fixed pass gathers ``max_context`` keys for every token. Raises ConfigError if it is required of
    contiguous slots.
    """
    if config.compile == "on" and not is_paged(config, forward.device):
        raise ConfigError(
            "compile is on, but passes over a contiguous cache are not recorded; set cache to paged"
        )
    if config.compile == "off" or not is_paged(config, forward.device):
        return False
    return config.compile == "on" or all(
        fits(forward.dtype, layer.head_dim, forward.device) for layer in forward.layers
    )


def _kernels(model: PreTrainedModel, config: EngineConfig, max_context: int) -> Forward | None:
    """The C kernels, if they fit and are required or faster on ``num_threads`` threads."""
    if config.compile == "off" or model.device.type == "cuda":
        return None
    why_not = "they read contiguous slots" if is_paged(config, model.device) else native.why_not(model)
    # torch has no kernel for bytes, and in sixteen bits its answers depend on the batch
    has_rival = model.dtype == torch.float32 and not is_int8(model)
    timed = config.compile == "auto" and not config.deterministic and has_rival
    if why_not is None and timed and not pays(model, config.num_threads):
        why_not = "torch's operations are faster here"
    if why_not is None:
        return native.NativeLlama(model, max_context, config.num_threads)
    if config.compile == "on":
        raise ConfigError(f"compile is on, but the kernels do not serve {type(model).__name__}: {why_not}")
    _log.info("%s: no compiled kernels, as %s", config.model, why_not)
    return None


def _torchs(
    model: PreTrainedModel,
    max_context: int,
    fast: bool | None,
    like: PreTrainedConfig,
    trust_remote_code: bool,
) -> Forward:
    """A forward pass of torch operations, hand-written where that fits."""
    reason = "switched off" if fast is False else fast_llama.why_not(model)
    if reason is None:
        return fast_llama.FastLlama(model, max_context)
    if fast:
        raise ConfigError(f"the fast forward does not serve {type(model).__name__}: {reason}")
    return module_forward(model, like, max_context, trust_remote_code)


def _with_exits(model: PreTrainedModel, config: EngineConfig, max_context: int) -> Forward:
    """A forward pass that can stop at any layer; ConfigError if there is none for this model."""
    num_layers = int(model.config.get_text_config().num_hidden_layers)
    reason = fast_llama.why_not(model)
    if num_layers < 2:
        reason = "it has one layer"
    if reason is not None:
        raise ConfigError(f"early_exit is on, but {config.model} cannot draft for itself: {reason}")
    return EarlyExitForward(fast_llama.FastLlama(model, max_context))


def pays(model: PreTrainedModel, num_threads: int | None) -> bool:
    """Whether the kernels are faster than torch, on as many threads, timed on one layer of the model's shape.

    None: on as many as each takes by default.
    """
    config: Any = model.config
    if config.hidden_size > MAX_WIDTH:
        return _held_in(model) != torch.float32
    torch.set_num_threads(1)  # as in an engine over the kernels (Forward.has_threads)
    try:
        kernels = seconds(native.NativeLlama(_one_layer(model), _CONTEXT, num_threads))
    finally:
        torch.set_num_threads(num_threads or 1)
    return kernels < seconds(fast_llama.FastLlama(_one_layer(model), _CONTEXT))


def seconds(forward: Forward) -> float:
    """Sum over ``WIDTHS`` of the time of one pass, the best of several tries each."""
    layout = PrefixCache(1, _CONTEXT)
    cache = KVCache(forward.layers, layout, forward.dtype, forward.device)
    total_s = 0.0
    with torch.inference_mode():
        for width in WIDTHS:
            tries = []
            for _ in range(_NUM_TIMED):
                began_s = time.perf_counter()
                inputs = [StepInput(0, 0, range(width), width)]
                forward(ForwardBatch(inputs, layout, forward.device), cache)
                tries.append(time.perf_counter() - began_s)
            total_s += min(tries)
    return total_s


def _one_layer(model: PreTrainedModel) -> PreTrainedModel:
    """A random one-layer model with layers shaped like those of ``model``, and a small vocabulary."""
    config: Any = copy.deepcopy(model.config)
    config.num_hidden_layers, config.vocab_size = 1, _CONTEXT
    config.pad_token_id = config.bos_token_id = config.eos_token_id = None
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    with torch.random.fork_rng(devices=[]):
        made: PreTrainedModel = type(model)(config).to(_held_in(model)).to(model.dtype).eval()  # type: ignore[arg-type]
    return made


def _held_in(model: PreTrainedModel) -> torch.dtype:
    """The type in which the kernels hold a matrix of the first layer."""
    body: Any = model.model
    return native.narrowest(body.layers[0].mlp.down_proj.weight.detach()).dtype
