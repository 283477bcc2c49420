"""Random model pairs in Hugging Face folders, for tests that need files but no sensible text."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from adasd.demo import demo_tokenizer

MAX_CONTEXT = 2048


def tokenizer() -> PreTrainedTokenizerBase:
    """A small byte-level BPE with a chat template, as the demo pair has."""
    return demo_tokenizer.train(num_texts=200)


def write_model(folder: Path, tokens: PreTrainedTokenizerBase, seed: int, **changes: int) -> Path:
    """A random Llama of about 60 thousand parameters; ``changes`` are fields of LlamaConfig."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(tokens),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_CONTEXT,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
        "bos_token_id": None,
    }
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **changes}))
    for parameter in model.parameters():  # wide logits: greedy and sampled answers differ, no near ties
        if parameter.dim() > 1:
            parameter.data.mul_(4.0)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def write_pair(folder: Path) -> tuple[Path, Path]:
    """Target and draft that share a tokenizer; the draft is the target with a little noise, so they often agree."""
    tokens = tokenizer()
    target = write_model(folder / "target", tokens, seed=1)
    draft = LlamaForCausalLM.from_pretrained(target)
    generator = torch.Generator().manual_seed(2)
    for parameter in draft.parameters():
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=generator) * parameter.data.std()
    draft.save_pretrained(folder / "draft")
    tokens.save_pretrained(folder / "draft")
    return target, folder / "draft"
