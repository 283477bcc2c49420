"""One model over several devices: each holds a run of consecutive layers, and activations move between them.

This is pipeline placement without pipelining (as in transformers' ``device_map``): a pass visits the devices one
after another. So it fits a model that one device cannot hold, but makes nothing faster. Token ids go in and logits
come out on the first device. Measured only on one GPU with a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adasd.errors import ConfigError

_split: WeakSet[PreTrainedModel] = WeakSet()


def is_split(model: PreTrainedModel) -> bool:
    """Whether it lies on several devices."""
    return model in _split


def shares(layer_costs: Sequence[float], first_cost: float, last_cost: float, num_devices: int) -> list[int]:
    """The device of each layer: consecutive runs that minimise the cost of the most expensive device.

    ``first_cost`` is the extra cost of the first device (the embedding), ``last_cost`` of the last (the head). Every
    device gets a layer; raises ValueError if there are fewer layers than devices.
    """
    num_layers = len(layer_costs)
    if not 1 <= num_devices <= num_layers:
        raise ValueError(f"{num_layers} layers cannot be shared by {num_devices} devices")

    def cost(device: int, begin: int, end: int) -> float:
        beside = first_cost * (device == 0) + last_cost * (device == num_devices - 1)
        return sum(layer_costs[begin:end]) + beside

    # dearest[end]: cost of the most expensive device so far, over the first ``end`` layers, and where each begins
    impossible: tuple[float, tuple[int, ...]] = (float("inf"), ())
    dearest = [(cost(0, 0, end), (0,)) if end else impossible for end in range(num_layers + 1)]
    for device in range(1, num_devices):
        dearest = [
            min(
                ((max(dearest[b][0], cost(device, b, end)), (*dearest[b][1], b)) for b in range(device, end)),
                default=impossible,
            )
            for end in range(num_layers + 1)
        ]
    begins = dearest[num_layers][1]
    return [sum(layer >= begin for begin in begins) - 1 for layer in range(num_layers)]


def split(
    model: PreTrainedModel, devices: Sequence[torch.device], cache_bytes_per_layer: int = 0
) -> PreTrainedModel:
    """Place the model on the devices by bytes of weights and cache. Raises ConfigError if it cannot be split."""
    layers = decoder_layers(model)
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    inner = {id(parameter) for layer in layers for parameter in layer.parameters()}
    beside = sum(_bytes(p) for p in model.parameters() if id(p) not in inner)
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    head_bytes = 0 if head is None or tied else _bytes(head.weight)
    costs = [float(sum(map(_bytes, layer.parameters())) + cache_bytes_per_layer) for layer in layers]
    try:
        places = shares(costs, beside - head_bytes, head_bytes, len(devices))
    except ValueError as error:
        raise ConfigError(f"{type(model).__name__} cannot be split: {error}; lower num_devices") from error
    inside = {id(module) for layer in layers for module in layer.modules()}
    for module in model.modules():  # never the whole model at once, which one device may not hold
        if id(module) not in inside:
            _move_own(module, devices[0])
    for layer, place in zip(layers, places, strict=True):
        layer.to(devices[place])
        _bring_inputs(layer, devices[place])
    if head is not None and not tied:
        head.to(devices[-1])
    for module in _behind(model, layers):
        if module is not head:
            _bring_inputs(module, devices[0])
    if head is not None:
        _bring_inputs(head, devices[0] if tied else devices[-1])
        head.register_forward_hook(lambda *call: call[-1].to(devices[0]))
    _split.add(model)
    return model


def _move_own(module: nn.Module, device: torch.device) -> None:
    """Move a module's own tensors, not those of its children. Tied weights stay tied."""
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(device)
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, buffer.to(device))


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The list of the model's layers; ConfigError if there is not exactly one of that length."""
    num_layers = model.config.get_text_config().num_hidden_layers
    found = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == num_layers]
    if len(found) != 1:
        raise ConfigError(
            f"{type(model).__name__} has {len(found)} lists of {num_layers} layers, so it is not clear what to "
            "split; set num_devices to 1"
        )
    return found[0]


def _behind(model: PreTrainedModel, layers: nn.ModuleList) -> list[nn.Module]:
    """Leaf modules outside the layers that have parameters, such as the final norm."""
    inside = {id(module) for layer in layers for module in layer.modules()}
    leaves = [m for m in model.modules() if not any(m.children()) and id(m) not in inside and m is not layers]
    return [m for m in leaves if any(True for _ in m.parameters())]


def _bring_inputs(module: nn.Module, device: torch.device) -> None:
    """Move the tensors that the module is called with to its device."""

    def bring(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return moved(args, device), moved(kwargs, device)

    module.register_forward_pre_hook(bring, with_kwargs=True)


def moved(value: Any, device: torch.device) -> Any:
    """``value`` with its tensors on ``device``, also inside tuples, lists and dicts; anything else is unchanged."""
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) in (tuple, list):
        return type(value)(moved(each, device) for each in value)
    if type(value) is dict:
        return {key: moved(each, device) for key, each in value.items()}
    return value


def _bytes(parameter: Tensor) -> int:
    return parameter.numel() * parameter.element_size()
