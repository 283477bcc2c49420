"""Frozen settings: every field with its default, its unit, its range and a sentence.

They are read once at the door (services.settings), never from the environment here. The YAML file and the
command line of ``adasd serve`` use these names: a top-level field is ``port``, a tier's field is
``target.model`` / ``draft.model`` (on the command line ``--port``, ``--target``, ``--target-dtype``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from adasd.requests import Mode

SELF = "self"
"""The draft source that a target with ``early_exit`` is."""
MODEL = "model"
"""The draft source that the tier ``draft`` is; further tiers bring names of their own."""


def says(
    sentence: str, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    """Metadata of a field: what it means, the closed range of a number, the possible texts."""
    return {"help": sentence, "low": low, "high": high, "choices": choices}


def setting(
    default: Any,
    sentence: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field with a default; see ``says``."""
    return field(default=default, metadata=says(sentence, low, high, choices))


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One model on one device."""

    model: str = field(metadata=says("folder or Hugging Face id of the model"))
    dtype: str = setting(
        "auto",
        "number format; auto is float32 on CPU and the checkpoint's own on CUDA",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    weights: str = setting(
        "full",
        "full: as dtype says; int8: linear layers rounded to one byte per weight, which is another model (exact then "
        "is the rounded target's distribution) in less memory, without the compiled kernels",
        choices=("full", "int8"),
    )
    device: str = setting("auto", "cpu, cuda, cuda:N or auto")
    num_devices: int = setting(
        1, "GPUs of one node that share the layers of a model which is too large for one", low=1, high=64
    )
    num_threads: int = setting(1, "CPU threads of one forward pass", low=1, high=1024)
    compile: str = setting(
        "auto",
        "forward passes by kernels built at the start, on CUDA by recorded graphs: auto is where they fit (and on "
        "a CPU are measured to be faster), on insists, off takes torch's operations",
        choices=("auto", "on", "off"),
    )
    deterministic: bool = setting(
        False,
        "no batch changes an answer, not even by rounding; free with the compiled kernels, elsewhere every token "
        "takes a pass of its own",
    )
    num_slots: int = setting(32, "sessions that one replica holds at once", low=1, high=65536)
    max_context: int | None = setting(
        None, "tokens of prompt and answer per slot; none is the model's own limit, at most 4096", low=2
    )
    prefill_chunk: int = setting(
        256, "prompt tokens of one session that one forward pass takes at most", low=1
    )
    verify_budget: int | None = setting(
        None,
        "drafted tokens that one pass judges of all sessions together, the likeliest to stand first; 0 is as "
        "many as its measured times make worth it, none is all",
        low=0,
    )
    prefix_cache: bool = setting(
        True, "use again what earlier sessions computed for the beginning of a prompt"
    )
    cache_bytes: int | None = setting(
        None,
        "bytes of key-value cache per replica; where num_slots full slots take more, there are fewer",
        low=1,
    )
    early_exit: bool = setting(
        False, "target only: its first layers draft for it, as the draft source self; takes no draft model"
    )
    trust_remote_code: bool = setting(False, "run Python code that ships with the model")


@dataclass(frozen=True, slots=True)
class SpeculationConfig:
    """The deployment's defaults; a request may choose otherwise within ``max_draft_tokens``."""

    mode: Mode = setting(
        Mode.EXACT, "off: plain decoding; exact: the target's own distribution; adaptive: relaxed, faster"
    )
    drafting: str | None = setting(
        None,
        "method that decides when drafting stops; none is calibrated in mode exact and adasd in mode adaptive",
    )
    acceptance: str = setting(
        "adasd:min_ratio=0.25",
        "method that relaxes acceptance in mode adaptive; the default is AdaSD's, for tokens with at least a "
        "quarter of the target's largest probability",
    )
    draft: str | None = setting(
        None,
        "where blocks come from: model, ngram, suffix, auto or a tier of drafts; none is the first model",
    )
    recent_tokens: int = setting(
        0,
        "tokens of recent answers (0.5 kB each) that suffix drafts look up, too, whoever asked; 0 is none",
        low=0,
    )
    verification: str = setting(
        "token",
        "how mode exact judges blocks that are sampled without a seed",
        choices=("token", "block"),
    )
    max_draft_tokens: int = setting(16, "tokens per block, hard cap", low=1, high=256)
    max_relaxed_fraction: float = setting(
        0.3, "share of an answer that may be relaxed, mode adaptive", low=0, high=1
    )
    max_distortion: float | None = setting(
        None, "total variation that relaxation may cost, summed over an answer; none is no limit", low=0
    )
    bypass: bool = setting(True, "run rounds plain while drafting does not pay, and try again now and then")
    load_aware: bool = setting(
        False, "cap blocks at what the target's batch has room for, whatever the drafting policy"
    )
    draft_ahead: bool = setting(True, "let the draft prepare for what a verdict may say meanwhile")
    row_len: int = setting(
        128, "entries of the draft's top-k distributions on the wire, where a rule needs them", low=1
    )
