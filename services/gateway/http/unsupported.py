"""Fields that OpenAI clients send beyond ours: refused if honouring them would change the answer, else reported."""

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
    "prompt_logprobs": (),
    "guided_whitespace_pattern": (),
    "length_penalty": (1,),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "echo": (False,),
    "suffix": ("",),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
    "prompt_embeds": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "truncate_prompt_tokens": (),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
}
"""Field to the values (besides null) that leave the answer as it is; any other value is refused."""

SILENT = {"metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
"""Book-keeping of OpenAI's own service: no effect on an answer, nothing to report."""


def refuse_unsupported(body: GenerationBody) -> tuple[str, ...]:
    """Names of fields that were ignored; raises InvalidRequest for one that must not be."""
    for name, value in (body.model_extra or {}).items():
        if value is not None and name in NEUTRAL and not _is_neutral(value, NEUTRAL[name]):
            raise InvalidRequest(f"{name} is not supported by this server yet; leave it out", name)
    return tuple(name for name in body.model_extra or {} if name not in NEUTRAL and name not in SILENT)


def _is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Equal to one of them, where a truth value and a number are never equal."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral)
