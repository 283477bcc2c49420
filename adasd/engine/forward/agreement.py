"""Checks that a forward pass over the engine's cache computes the same as the original model."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.prefix_cache import PrefixCache
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.modules import PROBE_LEN, num_embeddings, probe_ids
from adasd.engine.forward.protocol import Forward
from adasd.engine.work import StepInput
from adasd.errors import ConfigError

_PROBE_SPLIT = 5


def reference_logits(model: PreTrainedModel) -> Tensor:
    """Logits [tokens, V] of the probe by the model as loaded, for ``check_agreement``."""
    model.train(False)
    with torch.inference_mode():
        ids = probe_ids(num_embeddings(model), model.device)
        logits: Tensor = model(input_ids=ids[None], use_cache=False).logits[0].float()
    return logits


def check_agreement(forward: Forward, reference: Tensor) -> None:
    """Raise ConfigError unless two passes over a cache give the original model's logits.

    Guards against architectures that would run here and be silently wrong. float32: the largest difference may be
    1e-3 of the largest logit. In 16-bit formats rounding alone moves single logits of a deep model much further; so
    there the root mean square of the differences may be a fifth of the logits' standard deviation (wrong logits differ
    by about one standard deviation or more).
    """
    cache = KVCache(forward.layers, PrefixCache(2, PROBE_LEN), forward.dtype, forward.device)
    ids = probe_ids(forward.num_embeddings, forward.device).tolist()
    with torch.inference_mode():
        parts = [
            forward(ForwardBatch([StepInput(1, start, part, len(part))], cache.layout, forward.device), cache)
            for start, part in ((0, ids[:_PROBE_SPLIT]), (_PROBE_SPLIT, ids[_PROBE_SPLIT:]))
        ]
    differences = torch.cat(parts).float() - reference
    if forward.dtype == torch.float32:
        difference = float(differences.abs().max())
        allowed = 1e-3 * max(1.0, float(reference.abs().max()))
    else:
        difference = float(differences.square().mean().sqrt())
        allowed = 0.2 * float(reference.std())
    if not difference <= allowed:
        raise ConfigError(
            f"{forward.name} does not compute the same over the engine's cache as by itself (logits differ by "
            f"{difference:.3g}, allowed {allowed:.3g}); this architecture is not supported"
        )
