"""Models with rounded weights, and the slow twin of products of bytes."""

import copy

from torch.nn.functional import pad

from adasd.engine.forward.int8 import GROUP, LARGEST, Int8Linear, round_weights
from tests.unit.engine.models import original


def rounded_model(name):
    """A copy of the original with its weights rounded."""
    model = copy.deepcopy(original(name))
    round_weights(model)
    return model


def with_rounded_activations(model):
    """Have the rounded layers round what they are given, too, as the C kernels do, in torch's operations."""

    def round_inputs(layer, inputs):
        groups = pad(inputs[0], (0, -layer.in_features % GROUP)).unflatten(-1, (-1, GROUP))
        largest = groups.abs().amax(dim=-1, keepdim=True).clamp_min(1e-30)
        rounded = (groups * (LARGEST / largest)).round() * (largest / LARGEST)
        return (rounded.flatten(-2)[..., : layer.in_features],)

    for layer in model.modules():
        if isinstance(layer, Int8Linear):
            layer.register_forward_pre_hook(round_inputs)
    return model
