"""Whether the engine can run a model as configured, found out before any weight is read."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedConfig

from adasd.config import EngineConfig
from adasd.engine.forward.agreement import check_agreement, reference_logits
from adasd.engine.forward.int8 import round_weights
from adasd.engine.forward.selection import choose_forward
from adasd.engine.forward.trial import PROBE_LEN, miniature_of
from adasd.engine.loading.adapters import check_adapter, read_adapter
from adasd.engine.loading.checkpoint import load_config
from adasd.engine.loading.context import resolve_max_context
from adasd.engine.loading.limits import check_architecture, intended_device
from adasd.engine.loading.memory import on_meta
from adasd.engine.loading.quantised import check_quantisation, quantisation
from adasd.engine.parallel.sharding import check_sharding
from adasd.errors import ConfigError


def check_model(config: EngineConfig) -> PreTrainedConfig:
    """The model's configuration; ConfigError with the reason if the engine cannot run it as ``config`` says.

    Besides what the configuration says, a small random model of the same structure is made and run as the engine
    would run the real one: two sequences, longer than windows and the rotary scheme's own context.
    """
    model_config = load_config(config.model, config.trust_remote_code)
    check_architecture(model_config, config.max_context or 0)
    max_context = resolve_max_context(model_config, config.max_context)
    check_quantisation(model_config, config.model)
    if config.weights == "int8" and intended_device(config.device).type == "cuda":
        raise ConfigError(
            f"weights are to be int8, which is for CPUs, but {config.model} is to run on {config.device}; on a GPU "
            "serve a checkpoint that compressed-tensors, torchao or another library has quantised"
        )
    quantised = quantisation(model_config)
    if quantised is not None and config.weights == "int8":
        raise ConfigError(
            f"weights are to be int8, but {config.model} is quantised already ({quantised.get('quant_method')}); leave "
            "weights at full"
        )
    if config.adapter is not None:
        if quantised is not None:
            raise ConfigError(
                f"the adapter {config.adapter} cannot be merged into quantised weights ({config.model})"
            )
        check_adapter(read_adapter(config.adapter), on_meta(model_config, config.trust_remote_code))
    check_sharding(config, model_config, max_context)
    rehearse(config, model_config, max_context)
    return model_config


def rehearse(config: EngineConfig, model_config: PreTrainedConfig, max_context: int) -> None:
    """Run a miniature with this configuration's weights, kernels and early exit; ConfigError if it does not agree."""
    model, reference = miniature_of(model_config, max_context, config.trust_remote_code)
    if config.weights == "int8":
        round_weights(model)
        reference = reference_logits(model, PROBE_LEN)
    on_cpu = intended_device(config.device).type == "cpu"
    compile_ = "on" if config.compile == "on" and on_cpu else "off"
    settings = replace(config, device="cpu", tensor_parallel=1, compile=compile_)
    name = type(model).__name__
    try:
        forward = choose_forward(model, settings, PROBE_LEN, None, like=model_config)
        check_agreement(forward, reference, PROBE_LEN)
    except ConfigError:
        raise
    except Exception as error:  # a model's own code may raise anything
        raise ConfigError(f"{name} cannot be run over the engine's cache: {error}") from error
