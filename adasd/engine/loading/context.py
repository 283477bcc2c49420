"""The longest context of a model, read from its configuration alone: the orchestrator needs no model classes for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from adasd.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

UNKNOWN_LIMIT = 4096
"""Context of a model whose configuration names no limit."""

GROWING_ROPE = ("dynamic", "longrope")
"""Rotary schemes whose frequencies depend on the longest sequence in the pass."""


def resolve_max_context(config: PreTrainedConfig, wanted: int | None) -> int:
    """Tokens per slot: as wanted, by default the model's own limit, which memory may bound (``sizing``)."""
    text = config.get_text_config()
    limit = int(getattr(text, "max_position_embeddings", None) or UNKNOWN_LIMIT)
    if wanted is None:
        for scheme in rope_schemes(text):
            native = scheme.get("original_max_position_embeddings")
            if scheme.get("rope_type") in GROWING_ROPE and native:
                limit = min(limit, int(native))
        return limit
    if not 1 <= wanted <= limit:
        raise ConfigError(f"max_context is {wanted}, but the model's context holds 1 to {limit} tokens")
    return wanted


def rope_schemes(text: PreTrainedConfig) -> Iterator[dict[str, Any]]:
    """The rotary schemes of a model: one, or one per layer type."""
    scheme = getattr(text, "rope_parameters", None) or {}
    nested = [value for value in scheme.values() if isinstance(value, dict)]
    yield from nested or [scheme]
