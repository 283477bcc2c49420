"""LoRA adapters (arXiv:2106.09685) in PEFT's format, merged into the weights at loading.

A merged model is like any other: it may be rounded, stacked or recorded. What an adapter adds to a layer is
``scale * B @ A``. All but the numbers is checked before weights are read. Other kinds of adapters are refused.
Shape letters: R rank, K inputs and N outputs of a layer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from adasd.errors import ConfigError

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_UNSERVED = ("use_dora", "modules_to_save", "alora_invocation_tokens", "layer_replication", "lora_bias")
"""Settings that make an adapter more than ``scale * B @ A``."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter's files, read but for its numbers."""

    folder: Path
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]  # layer -> shapes of A [R, K] and B [N, R]
    config: Mapping[str, Any]

    def scale(self, layer: str) -> float:
        """What ``B @ A`` of this layer is multiplied by."""
        rank = self.shapes[layer][0][0]
        try:
            alpha = _pattern(self.config.get("alpha_pattern"), layer, self.config.get("lora_alpha", 8))
        except (re.error, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"lora_alpha or alpha_pattern in {self.folder / CONFIG_FILE} cannot be used for {layer}: {error}; a "
                "pattern is a regular expression with a number"
            ) from error
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)


def read_adapter(folder: str) -> Adapter:
    """Everything but the numbers; ConfigError if it is no LoRA adapter that can be merged."""
    path = Path(folder)
    config = _config(path)
    kind = str(config.get("peft_type"))
    unserved = [name for name in _UNSERVED if config.get(name)]
    if kind != "LORA" or unserved or config.get("bias", "none") != "none":
        what = f"of type {kind}" if kind != "LORA" else f"with {', '.join(unserved) or 'biases'}"
        raise ConfigError(f"the adapter {folder} is {what}; only plain LoRA adapters can be merged")
    try:
        with safe_open(path / WEIGHTS_FILE, "pt") as file:
            found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path / WEIGHTS_FILE} cannot be read: {error}; copy it again") from error
    shapes = {}
    for key in found:
        layer, _, part = key.removeprefix(_PREFIX).partition(".lora_")
        if part not in ("A.weight", "B.weight"):
            raise ConfigError(
                f"the adapter {folder} has {key}, which is no part of a LoRA adapter of linear layers"
            )
        ends = [f"{_PREFIX}{layer}.lora_{end}.weight" for end in "AB"]
        if not all(end in found for end in ends):
            raise ConfigError(f"the adapter {folder} has {key} without its other half; copy it again")
        shapes[layer] = (found[ends[0]], found[ends[1]])
    return Adapter(path, shapes, config)


def check_adapter(adapter: Adapter, model: PreTrainedModel) -> None:
    """Raise ConfigError unless every part fits a layer of ``model``, which may be on the meta device.

    A weight that other modules use too cannot be merged into: PEFT's adapter changes the one layer alone.
    """
    for layer, module in _targets(adapter, model):
        (rank, num_inputs), (num_outputs, other_rank) = adapter.shapes[layer]
        expected = None if module is None else _size(module)
        if rank != other_rank or expected != (num_inputs, num_outputs):
            has = (
                "no such layer to adapt"
                if expected is None
                else f"{expected[0]} inputs and {expected[1]} outputs"
            )
            raise ConfigError(
                f"the adapter {adapter.folder} belongs to another model than {model.config.name_or_path or 'this'}: "
                f"it changes {layer} with {num_inputs} inputs and {num_outputs} outputs, the model has {has} there"
            )
        adapter.scale(layer)
        assert module is not None
        if sharer := _sharer(module, model):
            raise ConfigError(
                f"the adapter {adapter.folder} changes {layer}, whose weight is also that of {sharer} in this model, "
                "so it cannot be merged; take an adapter without this layer"
            )


@torch.inference_mode()
def merge_adapter(adapter: Adapter, model: PreTrainedModel) -> None:
    """Add the adapter to the weights of ``model``; ``check_adapter`` must have passed."""
    with safe_open(adapter.folder / WEIGHTS_FILE, "pt") as file:
        for layer, module in _targets(adapter, model):
            assert module is not None, layer
            a_RK, b_NR = (file.get_tensor(f"{_PREFIX}{layer}.lora_{end}.weight").float() for end in "AB")
            change_NK = b_NR @ a_RK * adapter.scale(layer)
            change = change_NK.t() if isinstance(module, Conv1D) else change_NK
            weight: torch.Tensor = module.weight  # type: ignore[assignment]
            weight.copy_((weight.float() + change.to(weight.device)).to(weight.dtype))


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ConfigError(f"there is no adapter folder {folder}; give the folder that holds {CONFIG_FILE}")
    try:
        found = json.loads((folder / CONFIG_FILE).read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"{folder / CONFIG_FILE} is missing; give the folder of a LoRA adapter") from error
    except ValueError as error:
        raise ConfigError(f"{folder / CONFIG_FILE} is not JSON: copy it again") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{folder / CONFIG_FILE} is not JSON of an adapter: copy it again")
    return found


def _targets(adapter: Adapter, model: PreTrainedModel) -> Iterator[tuple[str, nn.Module | None]]:
    modules = dict(model.named_modules())
    for layer in adapter.shapes:
        module = modules.get(layer)
        yield layer, module if type(module) is nn.Linear or isinstance(module, Conv1D) else None


def _sharer(module: nn.Module, model: PreTrainedModel) -> str | None:
    """The name of another module with the same weight, such as the embedding of a tied head."""
    name: str
    for name, other in model.named_modules():
        if other is not module and any(own is module.weight for own in other.parameters(recurse=False)):
            return name
    return None


def _size(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs."""
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    first, second = weight.shape
    return (first, second) if isinstance(module, Conv1D) else (second, first)


def _pattern(patterns: Mapping[str, Any] | None, layer: str, default: Any) -> float:
    """The value of the first pattern, a regular expression, that matches the layer's name or its last parts.

    This is PEFT's rule; the default if there is none.
    """
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return float(value)
    return float(default)
