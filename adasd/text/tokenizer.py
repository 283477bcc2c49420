"""A model's tokenizer and chat template. Wraps a Hugging Face tokenizer; needs no torch; thread-safe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import jinja2
from transformers import AutoTokenizer, TokenizersBackend

from adasd.errors import ConfigError, InvalidRequest
from adasd.text import bounded_template
from adasd.text.chat import check_text, plain_messages, with_whole_arguments
from adasd.text.control_tokens import ControlTokens, split_at, unused_mark
from adasd.text.files import is_local, json_of, remedy
from adasd.text.spelling import Spelling
from adasd.text.tools import ToolForm, form_of, knows_tools

SUPPLIED = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"}
)
"""Variables that every chat template receives."""
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class Tokenizer:
    """One model's tokenizer. ``inner`` is any Hugging Face tokenizer with a Rust backend."""

    def __init__(
        self, inner: Any, eos_ids: Sequence[int] = (), *, control_tokens_in_content: bool = False
    ) -> None:
        bounded_template.install()
        self._inner, self._content_is_text = inner, not control_tokens_in_content
        own_eos = [] if inner.eos_token_id is None else [int(inner.eos_token_id)]
        self._eos_ids = frozenset([*own_eos, *eos_ids])
        self._spelling = Spelling(inner)
        self._decode = _decode_of(inner)

    @classmethod
    def load(
        cls, model: str, *, trust_remote_code: bool = False, control_tokens_in_content: bool = False
    ) -> Tokenizer:
        """Load from a folder or a Hugging Face id; raises ConfigError if there is no tokenizer.

        ``control_tokens_in_content``: the text of a control token in a message becomes that token.
        """
        try:
            inner = AutoTokenizer.from_pretrained(
                model, local_files_only=is_local(model), trust_remote_code=trust_remote_code
            )
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(":. ")
            todo = remedy(model, "tokenizer.json")
            raise ConfigError(f"no tokenizer could be loaded from {model!r}: {reason}{todo}") from error
        eos_ids = [*_eos_of(model, "generation_config.json"), *_eos_of(model, "config.json")]
        return cls(inner, eos_ids, control_tokens_in_content=control_tokens_in_content)

    @property
    def inner(self) -> Any:
        """The Hugging Face tokenizer."""
        return self._inner

    @property
    def eos_ids(self) -> frozenset[int]:
        """Token ids that end an answer, from tokenizer, generation_config.json and config.json."""
        return self._eos_ids

    @property
    def vocab_size(self) -> int:
        """Number of token ids, including added tokens. A model's embedding may have more."""
        return len(self._inner)

    @cached_property
    def max_token_chars(self) -> int:
        """Most characters per token; 2**31 if unknown text becomes one token."""
        return max(map(len, self._inner.get_vocab())) if self._spelling.knows_all_bytes else 2**31

    @property
    def has_chat_template(self) -> bool:
        """Whether the model has a chat template."""
        return bool(self._inner.chat_template)

    def encode(self, text: str, add_special_tokens: bool = True) -> tuple[int, ...]:
        """Token ids of a plain prompt, by default with the model's leading special tokens."""
        return self._ids(check_text(text, "prompt"), add_special_tokens=add_special_tokens)

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the chat template supports tools."""
        return knows_tools(self._template_for_tools)

    @cached_property
    def tool_form(self) -> ToolForm | None:
        """How the model writes tool calls; None if the template shows no known form."""
        return form_of(self._template_for_tools)

    @cached_property
    def template_options(self) -> frozenset[str]:
        """Options of the model's chat template, for example ``enable_thinking``."""
        known = bounded_template.variables(self._template_for_tools)
        return frozenset(name for name in known if name not in SUPPLIED and not name.endswith("_token"))

    def apply_chat_template(
        self,
        messages: Sequence[Any],
        tools: Sequence[Any] = (),
        options: Mapping[str, Any] = NO_OPTIONS,
        continue_final: bool = False,
    ) -> tuple[int, ...]:
        """Token ids of a conversation (shape: adasd.text.chat), ready for the assistant's answer.

        ``tools`` are OpenAI tool objects, for templates that support them; ``options`` are from ``template_options``.
        ``continue_final``: the last message is the assistant's, and its answer goes on there.
        """
        plain = self._plain(messages, options)
        if continue_final:
            _check_continued(plain[-1])
        mark = unused_mark(plain, tools, options)
        if self._content_is_text:
            plain, tools, options = self._control_tokens.broken((plain, tools, options), mark)
        parts = split_at(self._rendered(plain, tools, options, continue_final), mark)
        return tuple(token for part in parts for token in self._ids(part, add_special_tokens=False))

    def render_chat(
        self,
        messages: Sequence[Any],
        tools: Sequence[Any] = (),
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> str:
        """The conversation as rendered by the model's chat template; raises InvalidRequest if it refuses."""
        return self._rendered(self._plain(messages, options), tools, options)

    @cached_property
    def _control_tokens(self) -> ControlTokens:
        added = self._inner.added_tokens_decoder.values()
        return ControlTokens([str(token) for token in added if token.special])

    def _plain(self, messages: Sequence[Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The messages in the form that the template takes; raises InvalidRequest."""
        for name in options:
            if name not in self.template_options:
                known = ", ".join(sorted(self.template_options)) or "none"
                raise InvalidRequest(
                    f"the model's chat template has no option {name[:64]!r}; it has: {known}",
                    f"chat_template_kwargs.{name[:64]}",
                )
        if not self.has_chat_template:
            plain_messages(messages)
            raise InvalidRequest("this model has no chat template; use /v1/completions", "messages")
        return plain_messages(messages, with_tools=self.knows_tools)

    def _rendered(
        self,
        plain: Sequence[dict[str, Any]],
        tools: Sequence[Any],
        options: Mapping[str, Any],
        continue_final: bool = False,
    ) -> str:
        """Render the messages; if the template refuses truncated arguments of a call, render it without arguments."""
        try:
            return self._render(plain, tools, options, continue_final)
        except InvalidRequest:
            whole = with_whole_arguments(plain)
            if whole == plain:
                raise
            return self._render(whole, tools, options, continue_final)

    def _render(
        self,
        plain: Sequence[dict[str, Any]],
        tools: Sequence[Any],
        options: Mapping[str, Any],
        continue_final: bool,
    ) -> str:
        try:
            text = self._inner.apply_chat_template(
                list(plain),
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=not continue_final,
                continue_final_message=continue_final,
                **options,
            )
        except (
            jinja2.TemplateError,
            TypeError,
            AttributeError,
            LookupError,
            ValueError,
            ArithmeticError,
            RecursionError,
            MemoryError,
        ) as error:
            raise InvalidRequest(
                f"the model's chat template refuses the messages: {error}", "messages"
            ) from error
        return str(text)

    @property
    def _template_for_tools(self) -> str:
        """The template for tools, if a model has several templates."""
        template = self._inner.chat_template or ""
        return str(template.get("tool_use", "")) if isinstance(template, dict) else str(template)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of ``token_ids``, by default without special tokens (fits ``adasd.ports.Decode``)."""
        return self._decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def pieces(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        """The tokens as the vocabulary writes them (byte-level vocabularies write a space as ``Ġ``)."""
        return tuple(str(piece) for piece in self._inner.convert_ids_to_tokens(list(token_ids)))

    def token_bytes(self, token_id: int) -> bytes:
        """The token's bytes, which may be an incomplete character; for special tokens, the bytes of their name."""
        return self._spelling(token_id)

    def _ids(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        encoded = self._inner(text, add_special_tokens=add_special_tokens, verbose=False)
        return tuple(encoded["input_ids"])


def _check_continued(message: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a message that cannot be continued."""
    if message["role"] != "assistant" or message.get("tool_calls"):
        what = "has tool calls" if message["role"] == "assistant" else f"is of role {message['role']!r}"
        raise InvalidRequest(
            f"the last message {what}; continue_final_message needs a text of the assistant",
            "continue_final_message",
        )


def _decode_of(inner: Any) -> Callable[..., str]:
    """A decode function without clean-up of spaces; the Rust backend itself if the wrapper adds nothing."""
    if type(inner)._decode is TokenizersBackend._decode:
        backend: Callable[..., str] = inner.backend_tokenizer.decode
        return backend
    return partial(inner.decode, clean_up_tokenization_spaces=False)


def _eos_of(model: str, file_name: str) -> list[int]:
    """``eos_token_id`` of one of the model's JSON files; empty without the file or the entry."""
    eos = json_of(model, file_name).get("eos_token_id")
    ids = eos if isinstance(eos, list) else [eos]
    return [int(i) for i in ids if i is not None]
