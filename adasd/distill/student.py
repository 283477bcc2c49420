"""The draft before it learns: a small Llama whose embedding is the target's, in fewer dimensions; or an earlier draft.

Shapes: V tokens, D values of the target's embedding, W of the draft's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from adasd.engine.loading.checkpoint import load_config, load_tokenizer, reading
from adasd.engine.loading.context import resolve_max_context
from adasd.errors import ConfigError

HEAD_DIM = 32
SMOOTHING = 5.0  # what a token counts for in the embedding that no text holds
FINAL_SCALE = 0.03  # of the last norm: logits begin small although the embedding is large


@dataclass(frozen=True, slots=True)
class Shape:
    """Width of the residual stream, layers, and width within the feed-forward part."""

    width: int = 192
    num_layers: int = 3
    inner: int = 512

    @classmethod
    def parse(cls, text: str) -> Shape:
        """``WIDTHxLAYERS``, as 192x3; raises ConfigError."""
        width, _, layers = text.partition("x")
        if (
            not (width.isdigit() and layers.isdigit() and int(layers) > 0)
            or int(width) % HEAD_DIM
            or not int(width)
        ):
            raise ConfigError(
                f"the size {text!r} is not WIDTHxLAYERS with a width that {HEAD_DIM} divides; for example 192x3"
            )
        return cls(int(width), int(layers), -(-int(width) * 8 // 3 // 32) * 32)

    @classmethod
    def for_width(cls, target_width: int) -> Shape:
        """What suits a target: a third of its width, at most 768."""
        width = min(768, max(HEAD_DIM, round(target_width / 3 / HEAD_DIM) * HEAD_DIM))
        return cls.parse(f"{width}x3")

    def num_parameters(self, vocab_size: int) -> int:
        """All weights, the embedding once."""
        layer = 4 * self.width**2 + 3 * self.width * self.inner + 2 * self.width
        return vocab_size * self.width + self.num_layers * layer + self.width


def config_for(target: Any, shape: Shape) -> LlamaConfig:
    """The draft's configuration for the ``target``'s: same ids, and the context that the engine gives it."""
    text = target.get_text_config()
    return LlamaConfig(
        vocab_size=text.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.width // HEAD_DIM,
        num_key_value_heads=shape.width // HEAD_DIM,
        head_dim=HEAD_DIM,
        max_position_embeddings=resolve_max_context(target, None),
        tie_word_embeddings=True,
        bos_token_id=getattr(text, "bos_token_id", None),
        eos_token_id=getattr(text, "eos_token_id", None),
        pad_token_id=getattr(text, "pad_token_id", None),
    )


def check_fresh(target: Any, shape: Shape) -> None:
    """Raise ConfigError unless a draft of this shape can be made for the configuration ``target``."""
    try:
        with torch.device("meta"):
            LlamaForCausalLM(config_for(target, shape))
    except Exception as error:  # a configuration may be anything
        raise ConfigError(
            f"no draft can be made from the configuration of {target.name_or_path}: {error}; take another target"
        ) from error


@torch.no_grad()
def fresh(target: PreTrainedModel, shape: Shape, counts_V: Tensor, seed: int = 0) -> LlamaForCausalLM:
    """A draft to train. ``counts_V``: how often each token is said, so that frequent ones keep the most.

    Every layer starts as the identity.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config_for(target.config, shape))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            if name.endswith(("o_proj", "down_proj")):
                module.weight.zero_()
            else:
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
    embedding: Any = target.get_input_embeddings()
    model.model.embed_tokens.weight.copy_(reduced(embedding.weight.float().cpu(), shape.width, counts_V))
    model.model.norm.weight.fill_(FINAL_SCALE)
    model.generation_config.eos_token_id = target.generation_config.eos_token_id
    model.generation_config.pad_token_id = target.generation_config.pad_token_id
    model.generation_config.bos_token_id = target.generation_config.bos_token_id
    return model


def shape_of(folder: Path) -> Shape:
    """The shape of an earlier draft; ConfigError if the folder holds no Llama."""
    config = load_config(str(folder))
    if not isinstance(config, LlamaConfig):
        raise ConfigError(
            f"{folder} holds a model of type {config.model_type}, not of type llama; only drafts that "
            "adasd draft train has made can be gone on from"
        )
    return Shape(config.hidden_size, config.num_hidden_layers, config.intermediate_size)


def loaded(folder: Path, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """An earlier draft in float32; ConfigError unless it reads the target's tokens."""
    if load_tokenizer(str(folder)).get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"the draft in {folder} has another vocabulary than the target; go on from a draft for this target"
        )
    with reading(str(folder), "weights"):
        model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model


def reduced(embedding_VD: Tensor, width: int, counts_V: Tensor) -> Tensor:
    """(V, W): principal components of the rows, each weighed by the root of its token's count; mean square 1.

    Not centred, since the mean takes part in every logit. A target narrower than W leaves zeros.
    """
    weights_V = (counts_V.float() + SMOOTHING).sqrt()
    rows_VD = embedding_VD * weights_V[:, None]
    values_D, axes_DD = torch.linalg.eigh(rows_VD.T @ rows_VD)
    best_DW = axes_DD[:, values_D.argsort(descending=True)[:width]]
    reduced_VW = embedding_VD @ best_DW
    reduced_VW = nn.functional.pad(reduced_VW, (0, width - reduced_VW.size(1)))
    return reduced_VW / reduced_VW.square().mean().sqrt()
