"""A Llama-style Hugging Face model as a GGUF file, for llama.cpp as a peer.

    python -m load_tests.peers.gguf_pair models/demo/target target.gguf

Tokens cross by id in the benchmark, so the file's tokenizer only has to be well-formed: every id has a text.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, cast

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from adasd.errors import ConfigError

OF_A_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


FORMATS = {
    "f32": (gguf.LlamaFileType.ALL_F32, gguf.GGMLQuantizationType.F32),
    "bf16": (gguf.LlamaFileType.MOSTLY_BF16, gguf.GGMLQuantizationType.BF16),
    "q8": (gguf.LlamaFileType.MOSTLY_Q8_0, gguf.GGMLQuantizationType.Q8_0),
}


def write(model: str, file: Path, matrices: str = "f32") -> None:
    """Write the model with its matrices in one of FORMATS; raises ConfigError unless it is a plain Llama.

    That is one without biases and with plain rotary embedding.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config: Any = loaded.config
    plain_rope = (config.rope_parameters or {}).get("rope_type", "default") == "default"
    if not isinstance(loaded, LlamaForCausalLM) or config.attention_bias or config.mlp_bias or not plain_rope:
        raise ConfigError(f"{model} is no Llama without biases and with plain rotary embedding")
    writer: Any = gguf.GGUFWriter(file, "llama")
    _describe(writer, config)
    whole, kind = FORMATS[matrices]
    writer.add_file_type(whole)
    _spell(writer, AutoTokenizer.from_pretrained(model), config)
    for name, values in _tensors(loaded):
        if matrices != "f32" and values.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: Any, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _spell(writer: Any, tokenizer: Any, config: Any) -> None:
    """Write the vocabulary, with special tokens marked as such."""
    special = set(tokenizer.all_special_ids)
    known = {id_: text for text, id_ in tokenizer.get_vocab().items()}
    ids = range(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([known.get(id_, f"[unused {id_}]") for id_ in ids])
    kinds = (gguf.TokenType.CONTROL if id_ in special else gguf.TokenType.NORMAL for id_ in ids)
    writer.add_token_types(list(kinds))
    writer.add_token_merges([" ".join(pair) for pair in _merges(tokenizer)])
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    writer.add_eos_token_id(ends[0])
    writer.add_add_bos_token(False)


def _merges(tokenizer: Any) -> list[list[str]]:
    """Pairs of tokens in merge order; llama.cpp refuses a vocabulary without them."""
    written = json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("merges") or []
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in written]


def _tensors(model: Any) -> list[tuple[str, NDArray[np.float32]]]:
    """Names and values as llama.cpp expects them."""
    config, body = model.config, model.model
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    found = [
        ("token_embd.weight", _array(body.embed_tokens.weight)),
        ("output_norm.weight", _array(body.norm.weight)),
        ("output.weight", _array(model.lm_head.weight)),
    ]
    for number, layer in enumerate(body.layers):
        for ours, theirs in OF_A_LAYER.items():
            values = _array(layer.get_submodule(ours).weight)
            if theirs in heads:
                values = paired(values, heads[theirs])
            found.append((f"blk.{number}.{theirs}.weight", values))
    return found


def paired(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Reorders each head to 0, D/2, 1, D/2 + 1, ...: llama.cpp rotates adjacent pairs, transformers halves."""
    halves = weight.reshape(num_heads, 2, -1, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def _array(weight: torch.Tensor) -> NDArray[np.float32]:
    return cast("NDArray[np.float32]", weight.detach().contiguous().numpy())


def main(arguments: list[str] | None = None) -> int:
    """Convert one model."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.peers.gguf_pair", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", help="folder or Hugging Face id")
    parser.add_argument("file", type=Path, help="GGUF file to write")
    options = parser.parse_args(arguments)
    write(options.model, options.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
