"""Tiny random models of every kind of architecture that is served, with windows of 16 and contexts of 160 tokens."""

import functools

import torch
import transformers as hf
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

VOCAB_SIZE = 97
WINDOW = 16
_COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 160,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
_GROUPED = _COMMON | {"num_key_value_heads": 2}
_WIDE = _GROUPED | {"head_dim": 16}
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_MOE = {"moe_intermediate_size": 24, "num_experts_per_tok": 2}
_LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "head_dim": 8,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_MIXED = ["sliding_attention", "full_attention"]
_SLIDING = {"sliding_window": WINDOW, "use_sliding_window": True, "layer_types": _MIXED}
_VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def scaled(kind, **more):
    """A rotary scheme that stretches a context of 40 tokens."""
    scheme = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 40}
    return scheme | more


ZOO = {
    # rotary embedding on whole heads
    "llama": lambda: hf.LlamaConfig(**_GROUPED),
    "llama-gelu": lambda: hf.LlamaConfig(**_GROUPED, hidden_act="gelu"),
    "llama-linear": lambda: hf.LlamaConfig(**_GROUPED, rope_parameters=scaled("linear")),
    "llama-yarn": lambda: hf.LlamaConfig(**_GROUPED, rope_parameters=scaled("yarn")),
    "llama3": lambda: hf.LlamaConfig(
        **_GROUPED, rope_parameters=scaled("llama3", low_freq_factor=1.0, high_freq_factor=4.0)
    ),
    "llama-tied-biased": lambda: hf.LlamaConfig(
        **_GROUPED, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "mistral": lambda: hf.MistralConfig(**_GROUPED, sliding_window=None),
    "mistral-window": lambda: hf.MistralConfig(**_GROUPED, sliding_window=WINDOW),
    "ministral": lambda: hf.MinistralConfig(**_WIDE, sliding_window=WINDOW, layer_types=_MIXED),
    "ministral3": lambda: hf.Ministral3Config(**_WIDE, sliding_window=None),
    "qwen2": lambda: hf.Qwen2Config(**_GROUPED),
    "qwen2-window": lambda: hf.Qwen2Config(**_GROUPED, **_SLIDING),
    "qwen3": lambda: hf.Qwen3Config(**_WIDE),
    "qwen3-window": lambda: hf.Qwen3Config(**_WIDE, **_SLIDING),
    "gemma": lambda: hf.GemmaConfig(**_WIDE),
    "gemma3": lambda: hf.Gemma3TextConfig(**_WIDE, sliding_window=WINDOW, layer_types=_MIXED),
    "granite": lambda: hf.GraniteConfig(**_GROUPED, attention_multiplier=0.2, logits_scaling=0.5),
    "olmo": lambda: hf.OlmoConfig(**_GROUPED),
    "olmo2": lambda: hf.Olmo2Config(**_GROUPED),
    "olmo3": lambda: hf.Olmo3Config(**_GROUPED, sliding_window=WINDOW, layer_types=_MIXED),
    "cohere": lambda: hf.CohereConfig(**_GROUPED, logit_scale=2.0),
    "cohere2": lambda: hf.Cohere2Config(**_WIDE, sliding_window=WINDOW, layer_types=_MIXED, logit_scale=2.0),
    "smollm3": lambda: hf.SmolLM3Config(**_GROUPED, no_rope_layers=[1, 0]),
    "starcoder2": lambda: hf.Starcoder2Config(**_GROUPED, sliding_window=WINDOW),
    "exaone4": lambda: hf.Exaone4Config(**_WIDE, sliding_window=WINDOW, layer_types=_MIXED),
    "arcee": lambda: hf.ArceeConfig(**_WIDE),
    "apertus": lambda: hf.ApertusConfig(**_GROUPED),
    "bitnet": lambda: hf.BitNetConfig(**_GROUPED),
    "helium": lambda: hf.HeliumConfig(**_GROUPED | {"head_dim": 8}),
    "hunyuan": lambda: hf.HunYuanDenseV1Config(**_WIDE),
    "seed-oss": lambda: hf.SeedOssConfig(**_WIDE),
    "ernie": lambda: hf.Ernie4_5Config(**_WIDE),
    "nanochat": lambda: hf.NanoChatConfig(**_GROUPED),
    "cwm": lambda: hf.CwmConfig(
        **_WIDE | {"eos_token_id": 2},
        sliding_window=WINDOW,
        layer_types=_MIXED,
        rope_parameters=scaled("llama3", low_freq_factor=1.0, high_freq_factor=4.0),
    ),
    # rotary embedding on part of a head
    "phi": lambda: hf.PhiConfig(**_GROUPED, partial_rotary_factor=0.5),
    "phi3": lambda: hf.Phi3Config(**_GROUPED, sliding_window=WINDOW),
    "gpt-neox": lambda: hf.GPTNeoXConfig(**_COMMON, rotary_pct=0.5),
    "persimmon": lambda: hf.PersimmonConfig(**_COMMON),
    "stablelm": lambda: hf.StableLmConfig(**_GROUPED, partial_rotary_factor=0.5),
    "nemotron": lambda: hf.NemotronConfig(**_WIDE, partial_rotary_factor=0.5),
    "glm": lambda: hf.GlmConfig(**_WIDE, partial_rotary_factor=0.5),
    "glm4": lambda: hf.Glm4Config(**_WIDE, partial_rotary_factor=0.5),
    "gptj": lambda: hf.GPTJConfig(
        vocab_size=VOCAB_SIZE,
        n_embd=32,
        n_layer=2,
        n_head=4,
        rotary_dim=4,
        n_positions=160,
        initializer_range=0.3,
    ),
    "codegen": lambda: hf.CodeGenConfig(
        vocab_size=VOCAB_SIZE,
        n_embd=32,
        n_layer=2,
        n_head=4,
        rotary_dim=4,
        n_positions=160,
        initializer_range=0.3,
    ),
    # learned positions, position biases, none
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=4, n_positions=160, initializer_range=0.3
    ),
    "gpt-bigcode": lambda: hf.GPTBigCodeConfig(
        vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=4, n_positions=160, initializer_range=0.3
    ),
    "gpt-neo": lambda: hf.GPTNeoConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=WINDOW,
        max_position_embeddings=160,
        initializer_range=0.1,
    ),
    "opt": lambda: hf.OPTConfig(**_COMMON, ffn_dim=48, word_embed_proj_dim=32, init_std=0.3),
    "biogpt": lambda: hf.BioGptConfig(**_COMMON),
    "xglm": lambda: hf.XGLMConfig(
        vocab_size=VOCAB_SIZE,
        d_model=32,
        ffn_dim=48,
        num_layers=2,
        attention_heads=4,
        max_position_embeddings=160,
        init_std=0.3,
        pad_token_id=0,
    ),
    "bloom": lambda: hf.BloomConfig(
        vocab_size=VOCAB_SIZE, n_embed=32, n_layer=2, n_head=4, initializer_range=0.3
    ),
    "mpt": lambda: hf.MptConfig(
        vocab_size=VOCAB_SIZE, d_model=32, n_layers=2, n_heads=4, max_seq_len=160, initializer_range=0.3
    ),
    "falcon": lambda: hf.FalconConfig(**_COMMON),
    "falcon-new": lambda: hf.FalconConfig(**_COMMON, new_decoder_architecture=True, num_kv_heads=2),
    # soft caps, sinks, latent attention, several head sizes
    "gemma2": lambda: hf.Gemma2Config(
        **_WIDE,
        sliding_window=WINDOW,
        layer_types=_MIXED,
        attn_logit_softcapping=5.0,
        query_pre_attn_scalar=16,
    ),
    "vaultgemma": lambda: hf.VaultGemmaConfig(
        **_WIDE,
        sliding_window=WINDOW,
        layer_types=_MIXED,
        attn_logit_softcapping=5.0,
        query_pre_attn_scalar=16,
    ),
    "gpt-oss": lambda: hf.GptOssConfig(
        **_WIDE, num_local_experts=4, sliding_window=WINDOW, layer_types=_MIXED, rope_parameters=_ROPE
    ),
    "deepseek-v2": lambda: hf.DeepseekV2Config(**_COMMON, **_LATENT, **_MOE, topk_method="greedy"),
    "deepseek-v3": lambda: hf.DeepseekV3Config(**_COMMON, **_LATENT, **_MOE),
    "minicpm3": lambda: hf.MiniCPM3Config(
        **_COMMON, kv_lora_rank=16, q_lora_rank=24, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12
    ),
    "gemma3n": lambda: hf.Gemma3nTextConfig(
        **_WIDE | {"num_hidden_layers": 4},
        vocab_size_per_layer_input=VOCAB_SIZE,
        hidden_size_per_layer_input=8,
        sliding_window=WINDOW,
        layer_types=[*_MIXED, *_MIXED],
        num_kv_shared_layers=2,
        laurel_rank=4,
        activation_sparsity_pattern=None,
    ),
    "gemma4": lambda: hf.Gemma4TextConfig(
        **_WIDE | {"num_hidden_layers": 4},
        vocab_size_per_layer_input=VOCAB_SIZE,
        hidden_size_per_layer_input=8,
        sliding_window=WINDOW,
        layer_types=[*_MIXED, *_MIXED],
        global_head_dim=32,
    ),
    "gemma4-shared": lambda: hf.Gemma4TextConfig(
        **_WIDE | {"num_hidden_layers": 4},
        vocab_size_per_layer_input=VOCAB_SIZE,
        hidden_size_per_layer_input=8,
        sliding_window=WINDOW,
        layer_types=[*_MIXED, *_MIXED],
        num_kv_shared_layers=2,
    ),
    # mixtures of experts
    "mixtral": lambda: hf.MixtralConfig(**_GROUPED, num_local_experts=4, sliding_window=WINDOW),
    "qwen2-moe": lambda: hf.Qwen2MoeConfig(
        **_GROUPED, **_MOE, num_experts=4, shared_expert_intermediate_size=24, **_SLIDING
    ),
    "qwen3-moe": lambda: hf.Qwen3MoeConfig(**_WIDE, **_MOE, num_experts=4),
    "phimoe": lambda: hf.PhimoeConfig(**_GROUPED, num_local_experts=4, sliding_window=WINDOW),
    "doge": lambda: hf.DogeConfig(**_GROUPED, sliding_window=WINDOW),
    "olmoe": lambda: hf.OlmoeConfig(**_GROUPED, num_experts=4, num_experts_per_tok=2),
    "flex-olmo": lambda: hf.FlexOlmoConfig(**_GROUPED, num_experts=4, num_experts_per_tok=2),
    "granite-moe": lambda: hf.GraniteMoeConfig(**_GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "glm4-moe": lambda: hf.Glm4MoeConfig(
        **_WIDE,
        **_MOE,
        n_routed_experts=4,
        n_shared_experts=1,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
    ),
    "jetmoe": lambda: hf.JetMoeConfig(
        **{k: v for k, v in _COMMON.items() if k != "num_attention_heads"},
        num_key_value_heads=2,
        kv_channels=8,
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
    "minimax-m2": lambda: hf.MiniMaxM2Config(**_WIDE, num_local_experts=4, num_experts_per_tok=2),
    "llama4-chunked": lambda: hf.Llama4TextConfig(
        **_WIDE,
        intermediate_size_mlp=48,
        num_local_experts=4,
        attention_chunk_size=WINDOW,
        layer_types=["chunked_attention", "full_attention"],
        no_rope_layers=[1, 0],
        moe_layers=[1],
        attn_temperature_tuning=True,
        floor_scale=16,
    ),
    # text of models that also see
    "gemma3-multimodal": lambda: hf.Gemma3Config(
        text_config=ZOO["gemma3"]().to_dict(),
        vision_config=_VISION | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    ),
    "mistral3": lambda: hf.Mistral3Config(
        text_config=hf.MistralConfig(**_WIDE, sliding_window=None).to_dict(),
        vision_config=hf.PixtralVisionConfig(**_VISION, image_size=28, patch_size=14).to_dict(),
    ),
    "qwen2.5-vl": lambda: hf.Qwen2_5_VLConfig(
        text_config=_GROUPED
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "num_heads": 2,
            "intermediate_size": 16,
            "out_hidden_size": 32,
        },
    ),
}


@functools.cache
def zoo_model(name: str):
    """A random model as transformers makes it; no engine gets it."""
    torch.manual_seed(0)
    config = ZOO[name]()
    auto = (
        AutoModelForCausalLM
        if type(config) in AutoModelForCausalLM._model_mapping
        else AutoModelForImageTextToText
    )
    model = auto.from_config(config).eval()
    for parameter_name, parameter in model.named_parameters():
        if "norm" in parameter_name or "bias" in parameter_name or "sinks" in parameter_name:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in parameter_name else 0.0, 0.2)
    return model
