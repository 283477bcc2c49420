"""Tiny random models, made in the test; with logits so far apart that rounding does not change the argmax."""

import copy
import functools

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from adasd.config import EngineConfig
from adasd.engine.engine import TorchEngine
from adasd.testing.letters import letter_grammars

VOCAB_SIZE = 97
GRAMMARS = letter_grammars(VOCAB_SIZE)
_COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 160,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_GROUPED = _COMMON | {"num_key_value_heads": 2}
CONFIGS = {
    "llama": lambda: LlamaConfig(**_GROUPED),
    "llama-biased": lambda: LlamaConfig(
        **_GROUPED, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, head_dim=16
    ),
    "llama-yarn": lambda: LlamaConfig(
        **_GROUPED,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 40,
        },
    ),
    "qwen2": lambda: Qwen2Config(**_GROUPED),
    "qwen3": lambda: Qwen3Config(**_GROUPED, head_dim=16),
    "gpt-neox": lambda: GPTNeoXConfig(**_COMMON, rotary_pct=0.5),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCAB_SIZE,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=160,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
    ),
    "gemma": lambda: GemmaConfig(**_GROUPED, head_dim=8),
    "mistral-window": lambda: MistralConfig(**_GROUPED, sliding_window=7),
    "gemma3-window": lambda: Gemma3TextConfig(
        **_GROUPED | {"num_hidden_layers": 6}, head_dim=8, sliding_window=7
    ),
    "mamba": lambda: MambaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=2, eos_token_id=None, pad_token_id=None
    ),
}
FAST = ("llama", "llama-biased", "llama-yarn", "qwen2", "qwen3")
MODULES_ONLY = ("gpt-neox", "gpt2", "gemma", "mistral-window", "gemma3-window")


@functools.cache
def original(name: str, seed: int = 0):
    """A model as transformers makes it; no engine gets it."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    for parameter_name, parameter in model.named_parameters():
        if "norm" in parameter_name or "bias" in parameter_name:  # weights 1 and biases 0 would hide mistakes
            torch.nn.init.normal_(parameter, 1.0 if "norm" in parameter_name else 0.0, 0.2)
    return model


def engine(name: str, seed: int = 0, *, fast: bool | None = None, **settings) -> TorchEngine:
    """An engine over a copy of ``original``: ``fast`` None means kernels where they fit, True torch's operations."""
    kernels = fast is None and name in FAST and settings.get("cache") != "paged"
    compiled = {"compile": "on" if kernels else "off"}
    config = EngineConfig("tiny", **{"num_slots": 8, "prefill_chunk": 40} | compiled | settings)
    return TorchEngine.from_model(
        copy.deepcopy(original(name, seed)), config, fast=fast, seed=0, grammars=GRAMMARS
    )


def generate(name: str, prompt, num_tokens: int, seed: int = 0) -> list[int]:
    """transformers' own greedy continuation."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = original(name, seed).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    return out[0, len(prompt) :].tolist()


def prompts(*lengths: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Random prompts of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(0, VOCAB_SIZE, (n,), generator=generator).tolist()) for n in lengths]
