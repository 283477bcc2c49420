"""The Llama family's forward pass in C (``llama.c``) on a CPU: in float32, or over int8 weights with products of bytes.

One call per pass: on a small model, torch's operations cost more to launch than to run. Its results depend neither
on the batch nor on the number of threads (see ``llama.c``). It is tested against torch's operations.
Shape letters: N outputs and K inputs of a matrix, P outputs of a panel, T tokens, V vocabulary.
"""

from __future__ import annotations

import ctypes
import time
import weakref
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from adasd.engine.cache.cpu_memory import HugePages
from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.layers import LayerShape
from adasd.engine.forward import fast_llama
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.int8 import GROUP, Int8Linear, empty, is_int8
from adasd.engine.forward.modules import PROBE_LEN, num_embeddings
from adasd.engine.forward.native import library
from adasd.engine.forward.native.team_size import TeamSize, usual_num_threads
from adasd.engine.forward.protocol import Forward
from adasd.engine.sampling import multi_step_draft
from adasd.engine.sampling.sampler import own_rows
from adasd.engine.work import DraftWork, Proposed, wants_runner_ups
from adasd.errors import ConfigError
from adasd.rounds import ENTROPY_EDGES
from adasd.specdec.distributions import truncate_row
from adasd.stop_rule import NO_TABLE

LARGEST_HEAD = 256
_POINTER, _WHOLE, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


_KINDS = {torch.float32: 0, torch.uint8: 1, torch.float16: 2, torch.bfloat16: 3}
"""``Kind`` in products.h."""
_OFFSET = 128
"""Added to rounded weights (as an exclusive or of their bits), since products of bytes want them unsigned."""


def narrowest(weight: Tensor) -> Tensor:
    """The same numbers in sixteen bits if those hold every one exactly, as in most checkpoints; else ``weight``."""
    if weight.dtype != torch.float32:
        return weight
    for dtype in (torch.bfloat16, torch.float16):
        narrow = weight.to(dtype)
        if torch.equal(narrow.float(), weight):
            return narrow
    return weight


class _Matrix(ctypes.Structure):
    _fields_ = [("panels", _POINTER), ("scales", _POINTER), ("kind", _WHOLE)]


class _LayerPointers(ctypes.Structure):
    _fields_ = [
        *(
            (name, _POINTER)
            for name in [
                "norm1",
                "qkv_bias",
                "q_norm",
                "k_norm",
                "out_bias",
                "norm2",
                "gate_up_bias",
                "down_bias",
            ]
        ),
        *((name, _Matrix) for name in ("qkv", "out", "gate_up", "down")),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *(
            (name, _WHOLE)
            for name in ("num_layers", "width", "heads", "kv_heads", "head_dim", "inner", "vocab")
        ),
        *((name, _REAL) for name in ("eps", "scaling")),
        *((name, _POINTER) for name in ("cos", "sin", "norm")),
        *((name, _Matrix) for name in ("embedding", "head")),
        ("layers", _POINTER),
    ]


class _Cache(ctypes.Structure):
    _fields_ = [("layers", _POINTER), ("max_context", _WHOLE)]


class _Pass(ctypes.Structure):
    _fields_ = [
        *((name, _WHOLE) for name in ("num_tokens", "num_wanted", "alone")),
        *((name, _POINTER) for name in ("ids", "positions", "slots", "wanted")),
    ]


class _Rules(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("max_tokens", "entropy_ceilings", "confidence_floors")),
        ("num_edges", _WHOLE),
        *((name, _POINTER) for name in ("edges", "chances", "next_chances", "prices", "survivals")),
    ]


class _Drafts(ctypes.Structure):
    _fields_ = [(name, _POINTER) for name in ("tokens", "others", "entropies", "max_probs")]


def why_not(model: PreTrainedModel) -> str | None:
    """Why this forward pass cannot serve the model here; None: it can."""
    reason = fast_llama.why_not(model, layers=(nn.Linear, Int8Linear))
    if reason is not None:
        return reason
    if model.device.type != "cpu":
        return f"it is on {model.device}, not on the CPU"
    head_dim = int(fast_llama.head_dim_of(model))
    if head_dim > LARGEST_HEAD or head_dim % 2:
        return f"its heads have {head_dim} numbers"
    try:
        library.load()
    except library.Unavailable as error:
        return str(error)
    return None


class NativeLlama(Forward):
    """A forward pass of a model for which ``why_not`` is None, whatever type its weights have.

    It computes in float32. Over int8 weights it rounds what they are multiplied with, each token for itself.
    The model is unusable afterwards: its projections are emptied as they are packed, to avoid a second copy. The
    cache must have contiguous slots.
    """

    batch_invariant = True
    has_threads = True
    sequence_cost = 0  # a sequence costs no more than its tokens
    smallest_prefill = 8  # a run of tokens whose keys and values are read together (ROWS in attention.h)

    def __init__(
        self,
        model: PreTrainedModel,
        max_context: int,
        num_threads: int | None = None,
        team_size: TeamSize | None = None,
    ) -> None:
        """``num_threads``: at most; None: ``usual_num_threads``. ``team_size`` chooses between one thread and all.

        Raises ConfigError if the system does not start that many threads; they end with this object.
        """
        config: Any = model.config
        body: Any = model.model
        self.multi_step_draft = self
        num_threads = num_threads or usual_num_threads()
        self._library, self._num_threads = library.load(), num_threads
        self._team = self._library.adasd_team(num_threads)
        if not self._team:
            raise ConfigError(f"the system does not start {num_threads} threads; set num_threads to fewer")
        weakref.finalize(self, self._library.adasd_team_end, self._team).atexit = False
        self._panel = int(self._library.adasd_panel())
        self.name = f"{type(model).__name__} (native)"
        self.num_embeddings = num_embeddings(model)
        self.rounds_activations = is_int8(model)
        self._has_qk_norm = fast_llama.has_qk_norm(model)
        self.dtype, self.device = torch.float32, model.device
        heads, kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        head_dim = fast_llama.head_dim_of(model)
        self.layers = [LayerShape(kv_heads, head_dim)] * len(body.layers)
        self._kept: list[Any] = []  # what the structures point to
        self._matrices, self._products_per_token = HugePages(), 0
        self._embedding = narrowest(body.embed_tokens.weight.detach())
        with torch.inference_mode():
            rotation = fast_llama.rotation_table(body.rotary_emb, max(max_context, PROBE_LEN), self.device)
            layers = (_LayerPointers * len(body.layers))(*map(self._layer, body.layers))
            self._model = _Model(
                num_layers=len(body.layers),
                width=int(config.hidden_size),
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                inner=int(config.intermediate_size),
                vocab=int(model.lm_head.out_features),
                eps=float(config.rms_norm_eps),
                scaling=float(body.layers[0].self_attn.scaling),
                embedding=_Matrix(self._kept_as_it_is(self._embedding), None, _KINDS[self._embedding.dtype]),
                cos=self._keep(rotation.real),
                sin=self._keep(rotation.imag),
                norm=self._keep(body.norm.weight),
                head=self._packed([model.lm_head]),
                layers=ctypes.addressof(layers),
            )
        self._team_size = team_size or TeamSize(num_threads, self._products_per_token)
        self._matrices.collapse()
        self._kept.append(layers)
        self._caches: weakref.WeakKeyDictionary[KVCache, tuple[_Cache, Any]] = weakref.WeakKeyDictionary()
        self._scratch = torch.empty(0)

    def __call__(self, batch: ForwardBatch, cache: KVCache) -> Tensor:
        logits = torch.empty(len(batch.wanted_at), self._model.vocab)
        this, _numbers = self._pass(batch)
        began_s = time.perf_counter()
        self._library.adasd_forward(
            self._team,
            ctypes.addressof(self._model),
            ctypes.addressof(self._cache(cache)),
            ctypes.addressof(this),
            self._scratch_for(len(batch.ids), cache),
            logits.data_ptr(),
        )
        self._team_size.learn(this.num_tokens, bool(this.alone), time.perf_counter() - began_s)
        return logits

    def can_draft(self, work: DraftWork) -> bool:
        """Whether the call is greedy on logits that nothing changes."""
        return multi_step_draft.takes_largest(work)

    def draft(
        self,
        batch: ForwardBatch,
        cache: KVCache,
        works: Sequence[DraftWork],
        vocab_size: int,
        limit: int,
        generator: torch.Generator,
    ) -> list[list[Proposed | None]]:
        """Greedy drafting for the sessions whose last tokens are in ``batch``, one token each per pass.

        Ends when the first session must stop by its rule, or after ``limit`` passes. Only ids below ``vocab_size``
        are drafted. Entropies are NaN where logits are not finite. For distributions, the logits of all passes are
        kept, and truncated together.
        """
        rules = [multi_step_draft.rule_from_here(work) for work in works]
        num = len(batch.wanted_at)
        limit = min(limit, min(rule.max_tokens for rule in rules))
        max_tokens = (ctypes.c_int32 * num)(*(rule.max_tokens for rule in rules))
        ceilings = (ctypes.c_double * num)(*(rule.entropy_ceiling for rule in rules))
        floors = (ctypes.c_double * num)(*(rule.confidence_floor for rule in rules))
        tokens, following = (ctypes.c_int32 * (limit * num))(), (ctypes.c_int32 * (4 * num))()
        entropies, max_probs = (_REAL * (limit * num))(), (_REAL * (limit * num))()
        tables = [rule.table or NO_TABLE for rule in rules]
        num_edges = len(ENTROPY_EDGES)
        doubles = ctypes.c_double * (num * (num_edges + 1))
        edges = (ctypes.c_double * num_edges)(*ENTROPY_EDGES)
        chances = doubles(*(chance for table in tables for chance in table.chances))
        next_chances = doubles(*(chance for table in tables for chance in table.next_chances))
        prices = (ctypes.c_double * num)(*(table.price for table in tables))
        survivals = (ctypes.c_double * num)(*[1.0] * num)
        when = _Rules(
            *(ctypes.addressof(each) for each in (max_tokens, ceilings, floors)),
            num_edges,
            *(ctypes.addressof(each) for each in (edges, chances, next_chances, prices, survivals)),
        )
        others = (ctypes.c_int32 * (limit * num))() if wants_runner_ups(works) else None
        found = _Drafts(
            ctypes.addressof(tokens),
            None if others is None else ctypes.addressof(others),
            ctypes.addressof(entropies),
            ctypes.addressof(max_probs),
        )
        row_lens = [rule.row_len for rule in rules]
        stride = num * self._model.vocab if any(row_lens) else 0
        logits = torch.empty(num * (limit if stride else 1), self._model.vocab)
        this, _numbers = self._pass(batch)
        began_s = time.perf_counter()
        num_passes = self._library.adasd_draft(
            self._team,
            ctypes.addressof(self._model),
            ctypes.addressof(self._cache(cache)),
            ctypes.addressof(this),
            ctypes.addressof(when),
            limit,
            vocab_size,
            stride,
            self._scratch_for(max(len(batch.ids), num), cache),
            logits.data_ptr(),
            ctypes.addressof(following),
            ctypes.addressof(found),
        )
        self._team_size.learn(num, bool(this.alone), (time.perf_counter() - began_s) / num_passes)
        none: Any = repeat(None)
        ids, logprobs = none, none
        if stride:
            top = truncate_row(logits[: num_passes * num, :vocab_size], max(row_lens))
            ids, logprobs = zip(*own_rows(*top, row_lens * num_passes), strict=True)
        signals = (tokens, entropies, max_probs, ids, logprobs, none if others is None else others)
        drafted: list[Proposed | None] = list(map(Proposed, *signals))
        return [drafted[i * num : (i + 1) * num] for i in range(num_passes)]

    def _pass(self, batch: ForwardBatch) -> tuple[_Pass, Any]:
        """The pass, and the array that it points to."""
        num_tokens, num_wanted = len(batch.ids), len(batch.wanted_at)
        numbers = (ctypes.c_int32 * (3 * num_tokens + num_wanted))(
            *batch.ids, *batch.positions, *batch.slots, *batch.wanted_at
        )
        parts = (ctypes.addressof(numbers) + 4 * num_tokens * part for part in range(4))
        return _Pass(num_tokens, num_wanted, self._team_size.is_alone(num_tokens), *parts), numbers

    def _scratch_for(self, num_tokens: int, cache: KVCache) -> int:
        """Address of enough scratch space for a pass."""
        needed = self._library.adasd_scratch(
            ctypes.addressof(self._model), num_tokens, cache.layout.max_context, self._num_threads
        )
        if self._scratch.numel() < needed:
            self._scratch = torch.empty(needed)
        return self._scratch.data_ptr()

    def _cache(self, cache: KVCache) -> _Cache:
        """The cache's layer addresses as a C structure."""
        known = self._caches.get(cache)
        if known is None:
            layers = (_POINTER * len(cache.tokens))(*(tokens.data_ptr() for tokens in cache.tokens))
            known = self._caches[cache] = _Cache(ctypes.addressof(layers), cache.layout.max_context), layers
        return known[0]

    def _layer(self, layer: Any) -> _LayerPointers:
        """Pack one layer's weights and empty its modules."""
        attention, mlp = layer.self_attn, layer.mlp
        together = {
            "qkv": (attention.q_proj, attention.k_proj, attention.v_proj),
            "out": (attention.o_proj,),
            "gate_up": (mlp.gate_proj, mlp.up_proj),
            "down": (mlp.down_proj,),
        }
        fields: dict[str, Any] = {
            "norm1": self._keep(layer.input_layernorm.weight),
            "norm2": self._keep(layer.post_attention_layernorm.weight),
        }
        for name, projections in together.items():
            fields[name] = self._packed(projections)
            if projections[0].bias is not None:
                fields[f"{name}_bias"] = self._keep(torch.cat([one.bias for one in projections]))
            for one in projections:
                empty(one)
        if self._has_qk_norm:
            fields |= {
                "q_norm": self._keep(attention.q_norm.weight),
                "k_norm": self._keep(attention.k_norm.weight),
            }
        return _LayerPointers(**fields)

    def _packed(self, layers: Sequence[Any]) -> _Matrix:
        """The weights [N, K] of all ``layers`` below each other as [ceil(N / P), K, P], padded with zeros."""
        if isinstance(layers[0], Int8Linear):
            return self._packed_rounded(layers)
        weight_NK = narrowest(torch.cat([one.weight.detach() for one in layers]))
        num, inner = weight_NK.shape
        self._products_per_token += num * inner
        padded = F.pad(weight_NK, (0, 0, 0, -num % self._panel))
        panels = self._matrices.copy(padded.view(-1, self._panel, inner).transpose(1, 2)).data_ptr()
        return _Matrix(panels, None, _KINDS[weight_NK.dtype])

    def _packed_rounded(self, layers: Sequence[Int8Linear]) -> _Matrix:
        """Bytes of groups, four inputs of an output beside each other, each followed by its steps (``Matrix``)."""
        weight_NGE = torch.cat([one.weight_NGE for one in layers])
        num, num_groups, _ = weight_NGE.shape
        self._products_per_token += num * num_groups * GROUP
        missing = -num % self._panel
        weight_NGE = F.pad(weight_NGE, (0, 0, 0, 0, 0, missing)).view(torch.uint8) ^ _OFFSET
        steps_NG = F.pad(torch.cat([one.steps_NG for one in layers]), (0, 0, 0, missing)).view(torch.uint8)
        by_fours = weight_NGE.view(-1, self._panel, num_groups, GROUP // 4, 4).permute(0, 2, 3, 1, 4)
        steps = steps_NG.view(-1, self._panel, num_groups).transpose(1, 2)
        panels = self._matrices.copy(torch.cat([by_fours.flatten(2), steps], dim=2)).data_ptr()
        scales = self._keep(F.pad(torch.cat([one.scale_N for one in layers]), (0, missing)))
        return _Matrix(panels, scales, _KINDS[torch.uint8])

    def _keep(self, tensor: Tensor) -> int:
        """Address of the tensor's numbers in float32, which stays valid as long as this object lives."""
        return self._kept_as_it_is(tensor.detach().float())

    def _kept_as_it_is(self, tensor: Tensor) -> int:
        kept = tensor.contiguous()
        self._kept.append(kept)
        return kept.data_ptr()
