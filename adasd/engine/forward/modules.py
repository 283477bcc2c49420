"""A forward pass through the model's own modules, with the attention function replaced.

It serves the architectures that send queries, keys and values of flat tokens to transformers' attention function.
``fast_llama`` is its fast twin for one family and is tested against it; ``own_attention`` serves models that compute
attention by themselves.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.layers import LayerShape
from adasd.engine.forward.attention import IMPLEMENTATION, ShapeRecorder, SlotStep, register
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.protocol import Forward

PROBE_LEN = 8
"""Tokens of the longer sequence that ``check_agreement`` compares."""


class ModuleForward(Forward):
    """A transformers model run through its own modules. Modifies the model: its attention is replaced."""

    def __init__(self, model: PreTrainedModel) -> None:
        register()
        self.name = f"{type(model).__name__} (modules)"
        self.num_embeddings = num_embeddings(model)
        self.dtype, self.device = model.dtype, model.device
        self._takes_wanted = "logits_to_keep" in inspect.signature(model.forward).parameters
        model.train(False)
        self._model = model
        model.set_attn_implementation(IMPLEMENTATION)
        self.layers = self._record_layers()

    def _record_layers(self) -> list[LayerShape]:
        recorder = ShapeRecorder()
        ids = probe_ids(self.num_embeddings, self.device)[None]
        with torch.inference_mode():
            self._model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, step=recorder)
        return recorder.shapes(type(self._model).__name__)

    def __call__(self, batch: ForwardBatch, cache: KVCache) -> Tensor:
        wanted = {"logits_to_keep": batch.wanted} if self._takes_wanted and batch.wanted is not None else {}
        ids_1T = batch.ids_T[None]
        logits: Tensor = self._model(
            input_ids=ids_1T,
            # without a mask, transformers looks for packed sequences and so waits for the device in each pass
            attention_mask=torch.ones_like(ids_1T),
            position_ids=batch.positions_T[None],
            use_cache=False,
            step=SlotStep(batch, cache),
            **wanted,
        ).logits[0]
        return logits if wanted or batch.wanted is None else logits[batch.wanted]


def num_embeddings(model: PreTrainedModel) -> int:
    """How many token ids the model can be fed: the size of its embedding."""
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def probe_ids(num_embeddings: int, device: torch.device, length: int = PROBE_LEN) -> Tensor:
    """A few token ids, spread over the vocabulary."""
    return torch.linspace(0, num_embeddings - 1, length, device=device).long()
