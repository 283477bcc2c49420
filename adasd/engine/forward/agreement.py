"""Whether a forward pass over the engine's cache computes what the model by itself computes."""

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
    """Logits [tokens, V] of the probe by the model as it was loaded, to be compared by ``check_agreement``."""
    model.train(False)
    with torch.inference_mode():
        ids = probe_ids(num_embeddings(model), model.device)
        logits: Tensor = model(input_ids=ids[None], use_cache=False).logits[0].float()
    return logits


def check_agreement(forward: Forward, reference: Tensor) -> None:
    """Raise ConfigError unless two passes over a cache give the logits that the untouched model gave.

    Guards against architectures that would run here and be silently wrong. Largest difference allowed,
    relative to the largest logit: 1e-3 in float32, 5 % in 16-bit formats.
    """
    cache = KVCache(forward.layers, PrefixCache(2, PROBE_LEN), forward.dtype, forward.device)
    ids = probe_ids(forward.num_embeddings, forward.device).tolist()
    with torch.inference_mode():
        parts = [
            forward(ForwardBatch([StepInput(1, start, part, len(part))], cache.layout, forward.device), cache)
            for start, part in ((0, ids[:_PROBE_SPLIT]), (_PROBE_SPLIT, ids[_PROBE_SPLIT:]))
        ]
    difference = float((torch.cat(parts).float() - reference).abs().max())
    allowed = (1e-3 if forward.dtype == torch.float32 else 0.05) * max(1.0, float(reference.abs().max()))
    if not difference <= allowed:
        raise ConfigError(
            f"{forward.name} does not compute the same over the engine's cache as by itself (logits differ by "
            f"{difference:.3g}, allowed {allowed:.3g}); this architecture is not supported"
        )
