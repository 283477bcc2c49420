"""A forward pass through a model that computes attention by itself: over a padded batch, with transformers' cache.

It serves architectures that do not use transformers' attention function, or not for everything: position biases
(BLOOM, MPT), rotary embedding inside the attention module (GPT-J, CodeGen), masks of their own. The slots
stand behind transformers' ``Cache``: a layer's update writes its keys and values to the slots and reads all of them.
Slower than ``modules``: each group of sequences is a call of its own, and prompts pad what runs beside them.
Shape letters: R sequences of a group, N tokens of its longest one, L longest cached length, H heads, D width.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.forward.attention import ShapeRecorder, widened
from adasd.engine.forward.batch import ForwardBatch, Group
from adasd.engine.forward.modules import num_embeddings, probe_ids
from adasd.engine.forward.protocol import Forward
from adasd.errors import ConfigError

IMPLEMENTATION = "own-over-slots"
"""Name under which transformers finds the model's own attention and ``row_mask``."""


class OwnAttention(Forward):
    """A transformers model with its own attention over the slots.

    ``alone``: one sequence per call, for models that take a batch's sequences to be equally long.
    """

    def __init__(self, model: PreTrainedModel, *, alone: bool = False) -> None:
        _register()
        self.name = f"{type(model).__name__} (own attention{', one sequence at a time' if alone else ''})"
        self.num_embeddings = num_embeddings(model)
        self.dtype, self.device = model.dtype, model.device
        self._alone = alone
        takes = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in takes
        self._takes_wanted = "logits_to_keep" in takes
        model.train(False)
        self._model = model
        _choose_implementation(model)
        recorder = ShapeRecorder()
        ids_RN = probe_ids(self.num_embeddings, self.device)[None]
        positions_RN = torch.arange(ids_RN.shape[1], device=self.device)[None]
        self._run(ids_RN, positions_RN, RecordingCache(recorder, positions_RN))
        self.layers = recorder.shapes(type(model).__name__)

    @torch.inference_mode()
    def _run(self, ids_RN: Tensor, positions_RN: Tensor, cache: Cache, **more: Any) -> Tensor:
        if self._takes_positions:
            more["position_ids"] = positions_RN
        logits: Tensor = self._model(input_ids=ids_RN, past_key_values=cache, use_cache=True, **more).logits
        return logits

    def __call__(self, batch: ForwardBatch, cache: KVCache) -> Tensor:
        if self._alone and len(batch.inputs) > 1:
            singles = [ForwardBatch([one], batch.layout, self.device) for one in batch.inputs]
            return torch.cat([self(one, cache) for one in singles])
        if len(batch.inputs) == 1:
            return self._single(batch, cache)
        logits = torch.cat([self._group(batch, group, cache) for group in batch.groups])
        return logits if batch.wanted is None else logits.index_select(0, batch.wanted)

    def _single(self, batch: ForwardBatch, cache: KVCache) -> Tensor:
        """One sequence: only the wanted logits are computed where the model can do that."""
        (group,) = batch.groups
        keeps = self._takes_wanted and batch.wanted is not None
        wanted = {"logits_to_keep": batch.wanted} if keeps else {}
        rows = SlotRows(cache, group, batch.where_T)
        logits = self._run(batch.ids_T[None], group.positions_RN, rows, **wanted)[0]
        return logits if keeps or batch.wanted is None else logits.index_select(0, batch.wanted)

    def _group(self, batch: ForwardBatch, group: Group, cache: KVCache) -> Tensor:
        """Logits of a group's tokens [T, V]."""
        some = slice(group.first, group.last)
        ids_T = batch.ids_T[some]
        ids_RN = ids_T if group.pad is None else ids_T.index_select(0, group.pad)
        rows = SlotRows(cache, group, tuple(where_T[some] for where_T in batch.where_T))
        logits = self._run(ids_RN.view(group.num_sequences, group.width), group.positions_RN, rows)
        flat = logits.flatten(0, 1)
        return flat if group.unpad is None else flat.index_select(0, group.unpad)


class _Rows(Cache):
    """What a model asks of its cache besides keys and values.

    The query offset is the tensor of positions: transformers passes it on to ``row_mask`` unchanged.
    """

    def __init__(self, positions_RN: Tensor, longest: int) -> None:
        super().__init__(layers=[])
        self._positions_RN, self._longest = positions_RN, longest

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._longest - self._positions_RN.shape[1]

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        return self._positions_RN

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self._longest, 0


class SlotRows(_Rows):
    """A group's slots as transformers' cache, for one forward pass."""

    def __init__(self, cache: KVCache, group: Group, where_T: tuple[Tensor, ...]) -> None:
        super().__init__(group.positions_RN, group.longest)
        self._cache, self._group, self._where_T = cache, group, where_T

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [R, H, N, D] to the slots; returns all keys and values, [R, H, L, D]."""
        group, width = self._group, self._cache.layers[layer_idx].head_dim
        keys, values = (
            widened(each.transpose(1, 2).flatten(0, 1), width) for each in (key_states, value_states)
        )
        if group.unpad is not None:
            keys, values = keys.index_select(0, group.unpad), values.index_select(0, group.unpad)
        self._cache.write(layer_idx, self._where_T[self._cache.table_of[layer_idx]], keys, values)
        keys, values = self._cache.read(layer_idx, group.slots, group.longest, group.tables)
        return keys[..., : key_states.shape[-1]], values[..., : value_states.shape[-1]]


class RecordingCache(_Rows):
    """Records what every layer caches."""

    def __init__(self, recorder: ShapeRecorder, positions_RN: Tensor) -> None:
        super().__init__(positions_RN, positions_RN.shape[1])
        self._recorder = recorder

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        self._recorder.record(layer_idx, key_states, value_states)
        return key_states, value_states


def own_attention(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """transformers' attention function: the one that the model's own file defines."""
    found = vars(sys.modules[type(module).__module__]).get("eager_attention_forward")
    if found is None:
        raise ConfigError(f"{type(module).__name__} has no attention function of its own")
    result: tuple[Tensor, Tensor | None] = found(module, *args, **kwargs)
    return result


def row_mask(
    kv_length: int, q_offset: Tensor | int, mask_function: Any, dtype: torch.dtype = torch.float32, **_: Any
) -> Tensor:
    """transformers' mask function: [R, 1, N, L], additive, for queries at the positions ``q_offset`` [R, N]."""
    if not isinstance(q_offset, Tensor):
        raise ConfigError("the model makes a mask without its cache, which the engine does not compute")
    rows_R11 = torch.arange(q_offset.shape[0], device=q_offset.device)[:, None, None]
    keys_11L = torch.arange(kv_length, device=q_offset.device)[None, None]
    visible_RNL = mask_function(rows_R11, torch.zeros_like(rows_R11), q_offset[:, :, None], keys_11L)
    mask_RNL = torch.zeros(visible_RNL.shape, dtype=dtype, device=q_offset.device)
    return mask_RNL.masked_fill_(~visible_RNL, torch.finfo(dtype).min)[:, None]


def _choose_implementation(model: PreTrainedModel) -> None:
    """Like ``set_attn_implementation``, which skips models that do not look attention functions up by name.

    Those models look at the name for their masks all the same.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.config._attn_implementation_internal = IMPLEMENTATION


def _register() -> None:
    AttentionInterface.register(IMPLEMENTATION, own_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, row_mask)
