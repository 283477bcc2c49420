"""The shapes of the two models and their initialisation."""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from adasd.demo.demo_tokenizer import MAX_POSITIONS

HEAD_DIM = 32


class Role(Enum):
    """One of the two models of the pair."""

    TARGET = "target"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Width of the residual stream, number of layers, and default number of training tokens."""

    width: int
    num_layers: int
    num_tokens: int


SHAPES = {Role.TARGET: ModelShape(128, 6, 18_000_000), Role.DRAFT: ModelShape(64, 2, 12_000_000)}


def config(shape: ModelShape, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Llama with head dimension 32, SwiGLU of 8/3 the width (rounded up to 32), and an untied output head."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=-(-shape.width * 8 // 3 // 32) * 32,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=-(-shape.width // HEAD_DIM),
        num_key_value_heads=-(-shape.width // HEAD_DIM),
        head_dim=HEAD_DIM,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.no_grad()
def fresh(shape: ModelShape, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A new model: output projections and head are zero, so that every layer starts as the identity."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(shape, tokenizer))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            if name.endswith(("o_proj", "down_proj", "lm_head")):
                module.weight.zero_()
            else:
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = None
    return model
