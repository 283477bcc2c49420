"""Checks that a forward pass over the engine's cache computes the same as the original model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adasd.engine.cache.layers import dealt
from adasd.engine.cache.layout import CacheLayout
from adasd.engine.cache.pages import Pages
from adasd.engine.cache.prefix_cache import PrefixCache
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.modules import PROBE_LEN, num_embeddings, probe_ids
from adasd.engine.forward.protocol import Forward
from adasd.engine.loading.sizing import page_size
from adasd.engine.work import StepInput
from adasd.errors import ConfigError


def probes(num_embeddings: int, length: int = PROBE_LEN) -> list[list[int]]:
    """Two sequences, the second a little shorter and with other tokens."""
    ids: list[int] = probe_ids(num_embeddings, torch.device("cpu"), length).tolist()
    return [ids, ids[: -max(2, length // 3) - 1 : -1]]


def reference_logits(model: PreTrainedModel, length: int = PROBE_LEN) -> list[Tensor]:
    """Logits [tokens, V] of each probe by the model as loaded, for ``check_agreement``."""
    model.train(False)
    with torch.inference_mode():
        return [
            model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0].float()
            for ids in probes(num_embeddings(model), length)
        ]


def check_agreement(
    forward: Forward,
    reference: Sequence[Tensor],
    length: int = PROBE_LEN,
    *,
    paged: bool = False,
    rounded: bool = False,
) -> None:
    """Raise ConfigError unless passes over a cache give the original model's logits.

    Two sequences are fed in parts, in slots of their own, together and alone. Guards against architectures that would
    run here and be silently wrong. float32: the largest difference may be 1e-3 of the largest logit. In 16-bit formats,
    where the pass rounds activations, and where the model is ``rounded`` (a quantised checkpoint may round activations,
    too), rounding alone moves single logits much further; so there the root mean square of the differences may be a
    fifth of the logits' standard deviation (wrong logits differ by about one standard deviation or more).
    """
    layout: CacheLayout = PrefixCache(3, length)
    if paged:
        size = page_size(forward.device)
        windows = dealt(forward.layers).windows
        layout = Pages(3, length, size, 3 * len(windows) * -(-length // size), windows=windows)
    for _ in range(3):
        layout.extend(layout.allocate((), ()).slot, 0, length)
    cache = forward.make_cache(layout)
    long, short = probes(forward.num_embeddings, length)
    parts = [
        [StepInput(2, 0, long[:3], 3)],
        [StepInput(2, 3, long[3:-2], length - 5), StepInput(0, 0, short[:-1], len(short) - 1)],
        [StepInput(2, length - 2, long[-2:-1], 1), StepInput(0, len(short) - 1, short[-1:], 1)],
        [StepInput(2, length - 1, long[-1:], 1)],
    ]
    logits: dict[int, list[Tensor]] = {0: [], 2: []}
    with torch.inference_mode():
        for step in parts:
            step.sort(key=lambda one: one.attention_order)
            out = forward(ForwardBatch(step, cache.layout, forward.device), cache).float()
            for one, part in zip(step, torch.split(out, [one.num_positions for one in step]), strict=True):
                logits[one.slot].append(part)
    differences = torch.cat([*logits[2], *logits[0]]) - torch.cat(list(reference))
    if forward.dtype == torch.float32 and not rounded and not forward.rounds_activations:
        difference = float(differences.abs().max())
        allowed = 1e-3 * max(1.0, *(float(each.abs().max()) for each in reference))
    else:
        difference = float(differences.square().mean().sqrt())
        allowed = 0.2 * float(reference[0].std())
    if not difference <= allowed:
        raise ConfigError(
            f"{forward.name} does not compute the same over the engine's cache as by itself (logits differ by "
            f"{difference:.3g}, allowed {allowed:.3g}); this architecture is not supported"
        )
