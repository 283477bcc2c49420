"""bfloat16, plain decoding, a model of 0.49 B random parameters, beside llama.cpp: one stream."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from adasd.pairs.known import cache_folder
from load_tests.goals.one_stream import BF16, asked, chat, over
from load_tests.goals.row import Circumstances, Row, smollm2

SHAPE = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
}
"""Of Qwen2.5-0.5B, as a Llama."""
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def measure(given: Circumstances) -> list[Row]:
    folder = random_model()
    found = asked(
        (BF16, "llama.cpp BF16"), folder, None, chat(folder, 2, 32, given.repeats, num_read=128), given
    )
    return [over("bfloat16 plain over llama.cpp BF16, 0.49 B", 1.0, BF16, "llama.cpp BF16", found)]


def random_model() -> Path:
    """Folder of the model in the cache folder, written once, with SmolLM2's tokenizer. Never ends an answer."""
    folder = cache_folder(os.environ) / "random" / "llama-0.49b"
    if folder.is_dir():
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, eos_token_id=SHAPE["vocab_size"] - 1, bos_token_id=None))
    half = folder.with_name(f"{folder.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(half)
    for name in TOKENIZER:
        shutil.copy(smollm2()[0] / name, half)
    half.rename(folder)
    return folder
