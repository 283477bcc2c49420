"""Fields from clients that this server does not support: refused if they would change the answer, else reported."""

from __future__ import annotations

from typing import Any

from adasd.errors import InvalidRequest
from services.gateway.http.schema import GenerationBody

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "guided_whitespace_pattern": (),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "num_beams": (1,),
    "no_repeat_ngram_size": (0,),
    "echo": (False,),
    "suffix": ("",),
    "allowed_token_ids": (),
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
    "moderation": (),
    "verbosity": ("medium",),
    "documents": ([],),
    "prompt_embeds": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "reasoning_effort": (),
    "enable_thinking": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "truncate_prompt_tokens": (),
    "skip_special_tokens": (True,),
    # vLLM's
    "thinking_token_budget": (),
    "repetition_detection": (),
    "watermarking": (False,),
    "vllm_xargs": ({},),
    "logits_processors": ([],),
    "logprob_token_ids": ([],),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "return_prompt_text": (False,),
    # llama.cpp's
    "n_cmpl": (1,),
    "n_indent": (0,),
    "n_probs": (0,),
    "post_sampling_probs": (False,),
    "return_tokens": (False,),
    "response_fields": ([],),
    "t_max_predict_ms": (0, -1),
    "adaptive_target": (-1,),
    "thinking_budget_tokens": (-1,),
    "reasoning_budget_tokens": (-1,),
    "reasoning_format": ("none", "auto"),
    "parse_tool_calls": (True,),
    # SGLang's
    "regex": (),
    "ebnf": (),
    "structural_tag": (),
    "stop_regex": ([], ""),
    "no_stop_trim": (False,),
    "min_new_tokens": (0,),
    "lora_path": (),
    "custom_logit_processor": (),
    "custom_params": ({},),
    "return_hidden_states": (False,),
    # other servers'
    "thinking": (),
    "reasoning": (),
    "think": (),
    "format": ("",),
    "transforms": ([],),
    "plugins": ([],),
    "truncate": (),
    "top_n_tokens": (0,),
    "adapter_id": (),
    "grammar": (),
    "lora": ([],),
    "samplers": (),
    "mirostat": (0,),
    "typical_p": (1,),
    "tfs_z": (1,),
    "top_a": (0,),
    "top_n_sigma": (-1, 0),
    "dynatemp_range": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "repeat_last_n": (-1,),
    "max_new_tokens": (),
    "do_sample": (True,),
    "options": ({},),
}
"""Per field, the values (besides null) that leave the answer unchanged; any other value is refused."""

THINKING = "switch it by chat_template_kwargs, if the model's chat template can"
INSTEAD = {
    "grammar": "send structured_outputs.grammar, in Lark's notation",
    "max_new_tokens": "send max_tokens",
    "functions": "send tools",
    "function_call": "send tool_choice",
    "do_sample": "send temperature 0",
    "options": "send its entries as fields of their own",
    "reasoning_effort": "the model's chat template has no such switch",
    "enable_thinking": "the model's chat template has no such switch",
    "thinking": THINKING,
    "reasoning": THINKING,
    "think": THINKING,
    "regex": "send structured_outputs.regex",
    "ebnf": "send structured_outputs.grammar, in Lark's notation",
    "format": "send response_format",
    "n_cmpl": "send n",
    "n_probs": "send logprobs and top_logprobs, for a text completion logprobs alone",
    "min_new_tokens": "send min_tokens",
    "no_stop_trim": "send include_stop_str_in_output",
    "t_max_predict_ms": "send timeout_s",
    "return_token_ids": "send return_token_provenance, whose tokens have their ids",
    "return_tokens": "send return_token_provenance, whose tokens have their ids",
}
"""For some of these fields: what to send instead."""

TEMPLATE_SWITCHES = ("reasoning_effort", "enable_thinking")
"""Fields that take effect if the model's chat template has an option of that name."""

SILENT = {
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
}
"""Bookkeeping of OpenAI's own service: no effect on the answer, nothing to report."""


def refuse_unsupported(body: GenerationBody, honoured: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names of ignored fields; raises InvalidRequest for a field that must not be ignored."""
    extra = {name: value for name, value in (body.model_extra or {}).items() if name not in honoured}
    for name, value in extra.items():
        if value is not None and name in NEUTRAL and not _is_neutral(value, NEUTRAL[name]):
            todo = INSTEAD.get(name, "leave it out")
            raise InvalidRequest(f"{name} is not supported by this server; {todo}", name)
    return tuple(name for name in extra if name not in NEUTRAL and name not in SILENT)


def _is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Whether the value equals one of these; a bool never equals a number."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral)
