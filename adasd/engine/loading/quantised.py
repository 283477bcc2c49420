"""Quantised checkpoints: which library reads each kind, and which optional extra of this package brings it.

transformers' quantisers read them, each through the library that made the checkpoint; here it is only found out
before any weight is read whether that will work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedConfig
from transformers.quantizers.auto import AutoHfQuantizer

from adasd.errors import ConfigError


@dataclass(frozen=True, slots=True)
class QuantMethod:
    """One kind of quantised checkpoint."""

    extra: str  # of this package
    modules: tuple[str, ...]  # to import
    bits: float  # per weight, where the configuration does not say
    unpacked_on: tuple[
        str, ...
    ] = ()  # types of devices on which the weights are full ones once the model runs


METHODS: Mapping[str, QuantMethod] = MappingProxyType(
    {
        "compressed-tensors": QuantMethod(
            "compressed-tensors", ("compressed_tensors",), 8, unpacked_on=("cpu", "cuda")
        ),
        "torchao": QuantMethod("torchao", ("torchao",), 8),
        "gptq": QuantMethod("gptq", ("gptqmodel", "optimum"), 4),
        "awq": QuantMethod("gptq", ("gptqmodel", "accelerate"), 4),
        "fp8": QuantMethod("fp8", ("accelerate",), 8, unpacked_on=("cpu",)),
        "mxfp4": QuantMethod("fp8", ("accelerate",), 4.25, unpacked_on=("cpu",)),
        "bitsandbytes": QuantMethod("bitsandbytes", ("bitsandbytes", "accelerate"), 4),
    }
)


def quantisation(config: PreTrainedConfig) -> dict[str, Any] | None:
    """The configuration's ``quantization_config`` as a dict; None for a full checkpoint."""
    found = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    return found if found is None or isinstance(found, dict) else found.to_dict()


def check_quantisation(config: PreTrainedConfig, name: str) -> None:
    """Raise ConfigError if the checkpoint ``name`` is quantised and cannot be read here."""
    found = quantisation(config)
    if found is None:
        return
    kind = str(found.get("quant_method"))
    method = METHODS.get(kind)
    if method is None:
        known = ", ".join(METHODS)
        raise ConfigError(
            f"{name} is quantised by {kind}, which is not served; served are {known} and full weights"
        )
    absent = [module for module in method.modules if find_spec(module) is None]
    if absent:
        raise ConfigError(
            f"{name} is quantised by {kind}, which needs {' and '.join(absent)}: "
            f"pip install 'adasd-serve[{method.extra}]'"
        )
    try:
        quantiser = AutoHfQuantizer.from_config(dict(found), pre_quantized=True)
        quantiser.validate_environment(device_map=None, weights_only=True)
    except Exception as error:  # each library has its own
        reason = " ".join(str(error).split())
        raise ConfigError(f"{name} is quantised by {kind}, which does not work here: {reason}") from error


def is_unpacked(found: Mapping[str, Any], device_type: str) -> bool:
    """Whether the model's weights are full ones once it has run on such a device, and take as much memory."""
    method = METHODS.get(str(found.get("quant_method")))
    return method is not None and device_type in method.unpacked_on


def bits_per_weight(found: Mapping[str, Any]) -> float:
    """Bits of one rounded weight with its share of a scale per 128 weights; for estimates."""
    method = METHODS.get(str(found.get("quant_method")))
    said = found.get("bits") or found.get("w_bit")
    if found.get("load_in_4bit"):
        said = 4
    elif found.get("load_in_8bit"):
        said = 8
    groups = found.get("config_groups") or {}
    for group in groups.values() if isinstance(groups, dict) else ():
        said = said or (group.get("weights") or {}).get("num_bits")
    bits = float(said) if said else method.bits if method else 16.0
    return bits + 16 / 128
