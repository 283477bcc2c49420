"""A Llama-style GGUF file as a Hugging Face folder: weights, configuration, tokenizer and chat template.

Quantised weights are widened. GGUF turns neighbouring query and key rows, transformers halves of a head: rows
are put back into the order of the latter. Shapes: N heads, D values of a head, I inputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from adasd.errors import ConfigError

NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
CONTROL = 3  # token type: never part of a user's text


def write_folder(file: Path, folder: Path) -> None:
    """Write the model in ``file`` into the existing ``folder``, weights in bfloat16.

    Raises ConfigError if ``file`` holds no Llama with a byte-level BPE as SmolLM's, OSError if the disk fills up.
    """
    import gguf

    try:
        reader: Any = gguf.GGUFReader(file)
        facts = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise ConfigError(f"{file.name} cannot be read as GGUF: {error}") from error
    kinds = facts.get("general.architecture"), facts.get("tokenizer.ggml.pre")
    if kinds != ("llama", "smollm"):
        raise ConfigError(
            f"{file.name} holds a model of kind {kinds[0]} with the tokenizer {kinds[1]}; only llama with smollm "
            "is converted"
        )
    weights = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors
    }
    config = config_of(facts, tied="output.weight" not in weights)
    tensors = {
        name: torch.tensor(values).to(torch.bfloat16) for name, values in renamed(weights, config).items()
    }
    try:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    except SafetensorError as error:  # its own word for what the system refuses, such as a full disk
        raise OSError(f"the weights cannot be written ({error})") from error
    (folder / "model.safetensors").chmod(0o644)  # it is written for its owner alone
    config.save_pretrained(folder)
    GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    ).save_pretrained(folder)
    tokenizer_of(facts).save_pretrained(folder)


def config_of(facts: dict[str, Any], *, tied: bool) -> LlamaConfig:
    """The model's shape by the file's key-value pairs."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(facts["tokenizer.ggml.tokens"]),
        hidden_size=facts["llama.embedding_length"],
        intermediate_size=facts["llama.feed_forward_length"],
        num_hidden_layers=facts["llama.block_count"],
        num_attention_heads=facts["llama.attention.head_count"],
        num_key_value_heads=facts["llama.attention.head_count_kv"],
        max_position_embeddings=facts["llama.context_length"],
        rms_norm_eps=float(f"{facts['llama.attention.layer_norm_rms_epsilon']:g}"),  # was rounded to float32
        rope_parameters={"rope_type": "default", "rope_theta": facts["llama.rope.freq_base"]},
        tie_word_embeddings=tied,
        bos_token_id=facts["tokenizer.ggml.bos_token_id"],
        eos_token_id=facts["tokenizer.ggml.eos_token_id"],
        pad_token_id=facts["tokenizer.ggml.padding_token_id"],
        dtype="bfloat16",
    )


def renamed(weights: dict[str, NDArray[np.float32]], config: LlamaConfig) -> dict[str, NDArray[np.float32]]:
    """Tensors by the names, and with the order of rows, of transformers."""
    own, shared = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
    num_heads = {"attn_q": own, "attn_k": shared}
    found = {}
    for name, values in weights.items():
        part = name.removesuffix(".weight")
        if part in OUTSIDE:
            found[f"{OUTSIDE[part]}.weight"] = values
            continue
        _, layer, part = part.split(".")
        if part in num_heads:
            values = halved(values, num_heads[part])
        found[f"model.layers.{layer}.{NAMES[part]}.weight"] = values
    return found


def halved(weight_RI: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Rows of each head from the order 0, D/2, 1, D/2 + 1, ... to 0, 1, 2, ..."""
    pairs = weight_RI.reshape(num_heads, -1, 2, weight_RI.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight_RI.shape))


def tokenizer_of(facts: dict[str, Any]) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose digits stand alone, with its special tokens and its chat template."""
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]]
    bpe = Tokenizer(models.BPE({token: id_ for id_, token in enumerate(tokens)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = [
        token
        for token, kind in zip(tokens, facts["tokenizer.ggml.token_type"], strict=True)
        if kind == CONTROL
    ]
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    named = {
        role: tokens[facts[f"tokenizer.ggml.{key}_token_id"]]
        for role, key in (
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("unk_token", "unknown"),
            ("pad_token", "padding"),
        )
    }
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        extra_special_tokens=[token for token in special if token not in named.values()],
        chat_template=facts["tokenizer.chat_template"],
        model_max_length=facts["llama.context_length"],
        clean_up_tokenization_spaces=False,
        **named,
    )
