"""Hand-written forward pass of the Llama family (Llama, Qwen2, Qwen3) over stacked weights.

It has less overhead than the modules: queries, keys and values come from one matrix, gate and up from another;
residuals are added inside the projection (``addmm``); norm weights are folded into the next matrix (float32 only,
where that is exact enough); keys and values leave the projection side by side and go into the cache with one copy;
and rotary embedding is one complex product in place. For that, the outputs of the query and key matrices are permuted
so that the two numbers that rotate together are adjacent; attention scores stay the same, as queries and keys are
permuted alike.
Shape letters: T tokens, W width, H query heads, G key-value heads, D head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.layers import LayerShape
from adasd.engine.forward.attention import attend
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.int8 import Int8Linear, empty, is_int8
from adasd.engine.forward.modules import PROBE_LEN, num_embeddings
from adasd.engine.forward.packed_linear import can_pack, pack, packed_linear
from adasd.engine.forward.protocol import Forward

_FAMILY = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_STATIC_ROPE = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """Weights of one layer, as returned by ``_stored``."""

    norm1: Tensor | None  # [W]; None: folded into qkv
    qkv: Tensor  # [W, (H + 2 G) * D]
    qkv_bias: Tensor | None
    qk_norm: Tensor | None  # [H + G, D], Qwen3
    out: Tensor  # [H * D, W]
    out_bias: Tensor | None
    norm2: Tensor | None  # [W]; None: folded into gate_up
    gate_up: Tensor  # [W, 2 * feed-forward]
    gate_up_bias: Tensor | None
    down: Tensor  # [feed-forward, W]
    down_bias: Tensor | None


def why_not(model: PreTrainedModel, layers: tuple[type[nn.Module], ...] = (nn.Linear,)) -> str | None:
    """Why this forward pass would not compute the same as the model's modules; None: it does.

    ``layers``: the kinds of linear layers that it can compute.
    """
    config: Any = model.config
    rope = (config.rope_parameters or {}).get("rope_type", "default") if type(model) in _FAMILY else None
    if type(model) not in _FAMILY:
        return "it is none of Llama, Qwen2, Qwen3"
    if rope not in _STATIC_ROPE or (config.rope_parameters or {}).get("partial_rotary_factor", 1.0) != 1.0:
        return f"its rotary embedding is of type {rope}"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        return "it has sliding-window layers"
    if is_int8(model) and Int8Linear not in layers:
        return "its weights are int8"
    if getattr(model, "is_quantized", False):
        return "its checkpoint is quantised"
    projections = [m for name, m in model.named_modules() if name.endswith(("_proj", "lm_head"))]
    if any(type(m) not in layers for m in projections):
        return "its projections are not plain linear layers"
    return None


def head_dim_of(model: PreTrainedModel) -> int:
    """Head dimension: from the configuration, else hidden size / number of heads."""
    config: Any = model.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def has_qk_norm(model: PreTrainedModel) -> bool:
    """Whether queries and keys are normalised per head."""
    return isinstance(model, Qwen3ForCausalLM)


class FastLlama(Forward):
    """A forward pass of a model for which ``why_not`` is None.

    The model is unusable afterwards: its projections are emptied as they are restacked, to avoid a second copy.
    """

    def __init__(self, model: PreTrainedModel, max_context: int) -> None:
        config: Any = model.config
        body: Any = model.model
        self.name = f"{type(model).__name__} (stacked)"
        self.num_embeddings = num_embeddings(model)
        self.dtype, self.device = model.dtype, model.device
        self._num_heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_dim = head_dim_of(model)
        self._eps = float(config.rms_norm_eps)
        self._fold = self.dtype == torch.float32
        self._has_qk_norm = has_qk_norm(model)
        width = int(config.hidden_size)
        self._root_width = math.sqrt(width)
        self._eps_length = torch.tensor(math.sqrt(width * self._eps), device=self.device)
        self._scaling = float(body.layers[0].self_attn.scaling)
        self.layers = [LayerShape(self._kv_heads, self._head_dim)] * len(body.layers)
        with torch.inference_mode():
            self._rotation = rotation_table(body.rotary_emb, max(max_context, PROBE_LEN), self.device)
            self._embedding = body.embed_tokens.weight.detach()
            self._layers = [self._restack(layer) for layer in body.layers]
            head, norm = model.lm_head.weight.detach(), body.norm.weight.detach()
            self._norm = None if self._fold else norm
            self._head = _stored(self._folded(head, norm))

    def __call__(self, batch: ForwardBatch, cache: KVCache) -> Tensor:
        return self.logits_at(batch, cache, (len(self._layers),))[0]

    def logits_at(self, batch: ForwardBatch, cache: KVCache, depths: Sequence[int]) -> list[Tensor]:
        """Logits after each of ``depths`` layers (rising, from 1), through the final norm and the head.

        Later layers are not computed, and their part of the cache is not written.
        """
        x = self._embedding[batch.ids_T]
        rotation = self._rotation[batch.positions_T]
        found = []
        for index, layer in enumerate(self._layers[: depths[-1]]):
            x = self._layer(index, layer, x, rotation, batch, cache)
            if index + 1 in depths:
                wanted = x if batch.wanted is None else x.index_select(0, batch.wanted)
                found.append(_affine(self._normed(wanted, self._norm), self._head, None))
        return found

    def _layer(
        self, index: int, layer: _Layer, x: Tensor, rotation: Tensor, batch: ForwardBatch, cache: KVCache
    ) -> Tensor:
        num_tokens = x.shape[0]
        num_rotating = self._num_heads + self._kv_heads
        qkv = _affine(self._normed(x, layer.norm1), layer.qkv, layer.qkv_bias)
        heads = qkv.view(num_tokens, num_rotating + self._kv_heads, self._head_dim)
        rotating = heads[:, :num_rotating]
        if layer.qk_norm is not None:
            rotating.copy_(F.rms_norm(rotating, (self._head_dim,), None, self._eps) * layer.qk_norm)
        _rotate(rotating, rotation)
        cache.tokens[index].index_copy_(0, batch.where_T[0], qkv[:, self._num_heads * self._head_dim :])
        attended = attend(heads[:, : self._num_heads], cache, index, batch, self._scaling)
        x = _residual(x, attended.reshape(num_tokens, -1), layer.out, layer.out_bias)
        gate, up = _affine(self._normed(x, layer.norm2), layer.gate_up, layer.gate_up_bias).chunk(2, -1)
        return _residual(x, F.silu(gate).mul_(up), layer.down, layer.down_bias)

    def _normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        if weight is not None:
            return F.rms_norm(x, (x.shape[-1],), weight, self._eps)
        # the division of the root mean square by sqrt(W) is folded into the next matrix
        length: Tensor = torch.linalg.vector_norm(x, 2, -1, True)
        return x / length.hypot_(self._eps_length)

    def _restack(self, layer: Any) -> _Layer:
        """Stack one layer's weights and empty its modules."""
        attention, mlp = layer.self_attn, layer.mlp
        q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
        qkv = torch.cat([self._paired(q.weight), self._paired(k.weight), v.weight])
        qkv_bias = None
        if q.bias is not None:
            qkv_bias = torch.cat([self._paired(q.bias), self._paired(k.bias), v.bias])
        qk_norm = None
        if self._has_qk_norm:
            q_norm, k_norm = self._paired(attention.q_norm.weight), self._paired(attention.k_norm.weight)
            qk_norm = torch.cat([q_norm.expand(self._num_heads, -1), k_norm.expand(self._kv_heads, -1)])
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        gate_up_bias = None
        if mlp.gate_proj.bias is not None:
            gate_up_bias = torch.cat([mlp.gate_proj.bias, mlp.up_proj.bias])
        norm1, norm2 = layer.input_layernorm.weight.detach(), layer.post_attention_layernorm.weight.detach()
        stacked = _Layer(
            norm1=None if self._fold else norm1,
            qkv=_stored(self._folded(qkv, norm1)),
            qkv_bias=qkv_bias,
            qk_norm=qk_norm,
            out=_stored(attention.o_proj.weight.detach()),
            out_bias=_detached(attention.o_proj.bias),
            norm2=None if self._fold else norm2,
            gate_up=_stored(self._folded(gate_up, norm2)),
            gate_up_bias=gate_up_bias,
            down=_stored(mlp.down_proj.weight.detach()),
            down_bias=_detached(mlp.down_proj.bias),
        )
        for emptied in (q, k, v, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj):
            empty(emptied)
        return stacked

    def _folded(self, matrix: Tensor, norm: Tensor) -> Tensor:
        """The matrix after a norm, with the norm's weight folded in where that is exact enough."""
        return matrix * (norm * self._root_width) if self._fold else matrix

    def _paired(self, weight: Tensor) -> Tensor:
        """Outputs in the order 0, D/2, 1, D/2 + 1, ... within every head, so that rotating pairs are adjacent."""
        half = self._head_dim // 2
        heads = weight.detach().view(-1, 2, half, *weight.shape[1:])
        return heads.transpose(1, 2).reshape(weight.shape)


def _stored(weight_NK: Tensor) -> Tensor:
    """[K, N] as a view, or in oneDNN's own layout where that is faster."""
    return pack(weight_NK) if can_pack(weight_NK) else weight_NK.t()


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if weight.is_mkldnn:
        return packed_linear(x, weight, bias)
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def _residual(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x + y @ weight (+ bias)."""
    if weight.is_mkldnn:
        return packed_linear(y, weight, bias).add_(x)
    out = torch.addmm(x, y, weight)
    return out if bias is None else out.add_(bias)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def rotation_table(rotary: Any, max_context: int, device: torch.device) -> Tensor:
    """Unit complex numbers (times the model's attention scaling) by position: [C, 1, D / 2] complex64."""
    positions = torch.arange(max_context, device=device)[None]
    cos, sin = rotary(torch.zeros(1, dtype=torch.float32, device=device), position_ids=positions)
    half = cos.shape[-1] // 2
    return torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float()).unsqueeze(1)


def _rotate(heads_THD: Tensor, rotation_T1D: Tensor) -> None:
    """Rotary embedding in place, of heads in the order of ``_paired``."""
    pairs = (*heads_THD.shape[:-1], heads_THD.shape[-1] // 2, 2)
    if heads_THD.dtype == torch.float32:
        torch.view_as_complex(heads_THD.view(pairs)).mul_(rotation_T1D)
        return
    turned = torch.view_as_complex(heads_THD.float().view(pairs)) * rotation_T1D
    heads_THD.copy_(torch.view_as_real(turned).flatten(-2))
