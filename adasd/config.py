"""Settings of an engine and of speculation: frozen fields, each with default, unit, range and description.

The field names are the option names of ``adasd serve`` (services.settings reads them once, at start).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from adasd.requests import Mode

SELF = "self"
"""Draft source: the target's own first layers (``target.early_exit``)."""
MODEL = "model"
"""Draft source: the model of the tier ``draft``. Models under ``drafts`` are sources by their own names."""


def described(
    sentence: str, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    """Metadata of a field: its description, the closed range of a number, the allowed texts."""
    return {"help": sentence, "low": low, "high": high, "choices": choices}


def setting(
    default: Any,
    sentence: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field with a default; see ``described``."""
    return field(default=default, metadata=described(sentence, low, high, choices))


USUAL_GPU_SHARE = 0.9
"""Share of a GPU's memory that one replica takes by default."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One model on one device, or on several ranks."""

    model: str = field(metadata=described("folder or Hugging Face id of the model"))
    dtype: str = setting(
        "auto",
        "number format of weights and cache; auto: float32 on a CPU, the checkpoint's own on CUDA",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    weights: str = setting(
        "full",
        "full: weights in dtype; int8: linear layers in one byte per weight, which is small, fast on a CPU and "
        "another model (mode exact then gives what the int8 target alone would)",
        choices=("full", "int8"),
    )
    device: str = setting(
        "auto", "device of the model: cpu, cuda, cuda:N, or auto for CUDA if there is a GPU"
    )
    tensor_parallel: int = setting(
        1,
        "target only: ranks that share every layer of the model, each a process with a GPU of its own (or on a CPU), "
        "all on one node",
        low=1,
        high=64,
    )
    num_threads: int | None = setting(
        None,
        "CPU threads per forward pass, at most; the compiled kernels use as many as they measure to be worthwhile; "
        "none: one per core and at most 8 for the kernels, 1 elsewhere",
        low=1,
        high=1024,
    )
    compile: str = setting(
        "auto",
        "compiled kernels on a CPU, CUDA graphs on a GPU; auto: where the model supports them (on a CPU only if "
        "they are measured to be faster), on: fail where it does not, off: plain torch",
        choices=("auto", "on", "off"),
    )
    deterministic: bool = setting(
        False,
        "batch-invariant: an answer is the same bit for bit in any batch; free with the compiled kernels, elsewhere "
        "each token is computed in a forward pass of its own",
    )
    num_slots: int = setting(32, "concurrent sessions per replica", low=1, high=65536)
    max_context: int | None = setting(
        None,
        "tokens of prompt and answer per session; none: the model's own limit, or what the memory holds, if less",
        low=2,
    )
    cache: str = setting(
        "auto",
        "layout of the KV cache; paged: a session takes pages as it grows, and if none is left the newest session is "
        "computed again later; contiguous: each session has room for max_context tokens; auto: paged on CUDA",
        choices=("auto", "paged", "contiguous"),
    )
    gpu_memory_utilization: float | None = setting(
        None,
        "share of the GPU's memory for weights, passes and a paged cache of one replica; the cache takes what is left; "
        "none: 0.9 of the GPU, or of the part of it that num_gpus grants",
        low=0.05,
        high=1,
    )
    prefill_chunk: int = setting(256, "most prompt tokens of one session per forward pass", low=1)
    verify_budget: int | None = setting(
        None,
        "drafted tokens verified per forward pass over all sessions, on average over passes, those most likely to be "
        "accepted first; none: all of them, 0: as many as the measured pass times make worthwhile",
        low=0,
    )
    prefix_cache: bool = setting(
        True, "reuse the KV cache of earlier prompts that begin with the same tokens"
    )
    cache_bytes: int | None = setting(
        None,
        "bytes of KV cache per replica, or per rank; a contiguous cache has fewer than num_slots slots where those "
        "need more; none: no limit, for a paged cache the rest of the memory",
        low=1,
    )
    early_exit: bool = setting(
        False,
        "target only: draft with the target's own first layers (draft source self) instead of a draft model",
    )
    adapter: str | None = setting(
        None, "folder of a LoRA adapter (PEFT's format) that is merged into the weights at loading"
    )
    trust_remote_code: bool = setting(False, "run Python code that comes with the model")

    @property
    def gpu_share(self) -> float:
        """``gpu_memory_utilization``, or its default for a whole GPU."""
        return USUAL_GPU_SHARE if self.gpu_memory_utilization is None else self.gpu_memory_utilization


@dataclass(frozen=True, slots=True)
class SpeculationConfig:
    """Defaults of the deployment. A request may override them, but not exceed ``max_draft_tokens``."""

    mode: Mode = setting(
        Mode.EXACT,
        "off: plain decoding; exact: the target's own distribution; adaptive: accepts more than exact does",
    )
    drafting: str | None = setting(
        None,
        "drafting method, which decides when a block ends; none: calibrated in mode exact, adasd in mode adaptive",
    )
    acceptance: str = setting(
        "adasd:min_ratio=0.25",
        "acceptance method of mode adaptive; the default is AdaSD's, for tokens with at least a quarter of the "
        "target's largest probability",
    )
    draft: str | None = setting(
        None,
        "draft source: model, ngram, suffix, auto or the name of a model in drafts; none: the first draft model",
    )
    recent_tokens: int = setting(
        0,
        "tokens of other callers' recent answers that suffix drafting searches too, 0.5 kB each; 0: none",
        low=0,
    )
    verification: str = setting(
        "token",
        "verification of sampling without a seed in mode exact: token by token, or the block as a whole",
        choices=("token", "block"),
    )
    max_draft_tokens: int = setting(
        16, "most draft tokens per block, for every method and request", low=1, high=256
    )
    max_relaxed_fraction: float = setting(
        0.3, "largest share of an answer's tokens that mode adaptive may accept by relaxation", low=0, high=1
    )
    max_distortion: float | None = setting(
        None,
        "largest total variation distance that relaxation may cost, summed over an answer; none: no limit",
        low=0,
    )
    bypass: bool = setting(
        True,
        "decode plainly while drafting costs more than it gains, and try drafting again from time to time",
    )
    load_aware: bool = setting(
        False, "shorten blocks as the target's batch fills up, with every drafting method"
    )
    draft_ahead: bool = setting(True, "draft the next block while the target still verifies the last one")
    draft_top_k: int = setting(
        128, "draft probabilities sent per token, the largest first, where verification needs them", low=1
    )
