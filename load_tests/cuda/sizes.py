"""Which shapes are measured: of a large card, or tiny ones that rehearse the same code on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

_QWEN: dict[str, Any] = {"vocab_size": 152064, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6}
LARGE = _QWEN | {
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
}
SMALL = _QWEN | {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
}
TINY = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Everything that differs between a card and a rehearsal."""

    device: torch.device
    dtype: torch.dtype
    target: dict[str, Any]
    draft: dict[str, Any]
    copy_bytes: int
    contexts: tuple[int, ...]  # tokens before the measured pass
    attention_contexts: tuple[int, ...]
    batches: tuple[int, ...]
    prompt_len: int
    num_repeats: int

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def on_a_card() -> Sizes:
    """Qwen2.5-32B and 0.5B by their shapes, with random weights."""
    return Sizes(
        torch.device("cuda", 0), torch.bfloat16, LARGE, SMALL, 2**31, (1024, 8192), (1024, 8192, 32768), (1, 32, 128),
        8192, 20,
    )  # fmt: skip


def rehearsal() -> Sizes:
    """The same code on a CPU within seconds."""
    return Sizes(torch.device("cpu"), torch.float32, TINY, TINY, 2**20, (20, 60), (20, 60), (1, 3), 60, 2)


def model(shape: dict[str, Any], sizes: Sizes, *, seed: int = 0) -> PreTrainedModel:
    """A model of this shape with random weights, made on the device."""
    torch.manual_seed(seed)
    with sizes.device:
        made: PreTrainedModel = AutoModelForCausalLM.from_config(Qwen2Config(**shape), dtype=sizes.dtype)
    return made.eval()
