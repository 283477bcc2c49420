"""Configuration files of the Qwen2.5 models that examples and overlays name; there are no weights."""

import json
from pathlib import Path

_SIZES = {  # width, feed-forward, layers, heads, key-value heads, tied embeddings, vocabulary
    "0.5B": (896, 4864, 24, 14, 2, True, 151936),
    "1.5B": (1536, 8960, 28, 12, 2, True, 151936),
    "7B": (3584, 18944, 28, 28, 4, False, 152064),
    "32B": (5120, 27648, 64, 40, 8, False, 152064),
    "72B": (8192, 29568, 80, 64, 8, False, 152064),
}


def write_configs(folder: Path) -> Path:
    """One folder per model, named as on the hub without the owner."""
    for size, (width, feed_forward, layers, heads, kv_heads, tied, vocab) in _SIZES.items():
        model = folder / f"Qwen2.5-{size}-Instruct"
        model.mkdir(parents=True)
        config = {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_size": width,
            "intermediate_size": feed_forward,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "tie_word_embeddings": tied,
            "vocab_size": vocab,
            "max_position_embeddings": 32768,
            "rope_theta": 1e6,
            "rms_norm_eps": 1e-6,
            "dtype": "bfloat16",
        }
        (model / "config.json").write_text(json.dumps(config))
    return folder
