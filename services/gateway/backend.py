"""The interface the gateway generates answers through; implemented by services.orchestrator, faked in tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from adasd.errors import Overloaded
from adasd.methods.policy import Described
from adasd.requests import GenerationRequest, SpeculationOptions
from adasd.results import Chunk, Complete
from adasd.text.tools import ToolForm


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests are served, and why not or only in part: one sentence per reason."""

    ready: bool
    degraded: bool = False  # it serves without a draft, or its disk is full
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model that clients may name."""

    id: str
    context_len: int  # tokens of prompt + answer
    created: int  # seconds since 1970
    target: str = ""  # folder name or id of the large model
    draft: str = ""  # folder name or id of the small model; empty: no draft model
    drafts: Sequence[Described] = ()  # draft sources that requests may name
    examples: Sequence[str] = ()  # prompts that this pair can answer
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)  # as in Backend
    verdict_backend: str = ""  # as in adasd.ports.Engine; empty: no target has answered yet


class Text(Protocol):
    """Text to token ids and back (adasd.text.tokenizer.Tokenizer); blocking, safe in threads."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_token_chars(self) -> int:
        """The largest number of characters in one token."""
        ...

    def encode(self, text: str, add_special_tokens: bool = True) -> tuple[int, ...]: ...

    @property
    def knows_tools(self) -> bool:
        """Whether the chat template has a place for tools."""
        ...

    @property
    def tool_form(self) -> ToolForm | None:
        """The format of the model's tool calls; None if its template shows no known format."""
        ...

    @property
    def template_options(self) -> frozenset[str]:
        """Options of the model's own chat template, for example ``enable_thinking``."""
        ...

    def apply_chat_template(
        self,
        messages: Sequence[Any],
        tools: Sequence[Any] = (),
        options: Mapping[str, Any] = ...,
        continue_final: bool = False,
    ) -> tuple[int, ...]:
        """Raises InvalidRequest if the template cannot render these messages.

        ``continue_final``: the answer continues the last message.
        """
        ...

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...

    def pieces(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        """The tokens as strings of the vocabulary."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token; they may end inside a character."""
        ...


class Backend(Protocol):
    """Generates answers. All methods but ``generate`` return at once, from local state."""

    @property
    def tokenizer(self) -> Text: ...

    @property
    def model_name(self) -> str: ...

    @property
    def context_len(self) -> int:
        """Tokens of prompt + answer that a session can hold."""
        ...

    @property
    def sampling_defaults(self) -> Mapping[str, float]:
        """Sampling options of requests that leave them out, by the model's recommendation."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk | Complete, None]:
        """Yields Chunks, one per verify step, then Complete.

        Raises an AdasdError before the first event if the request is refused (Overloaded, InvalidRequest), later
        if the answer fails. Closing or cancelling the iterator cancels the request and frees its slots.
        """
        ...

    def refusal(self) -> Overloaded | None:
        """The error for any request that arrives now; None if it may run or wait."""
        ...

    def abort(self, request_id: str) -> bool:
        """End a running answer: its stream ends with finish reason ``cancelled``. False if the id is not running."""
        ...

    @property
    def num_running(self) -> int:
        """Answers in progress, including those that wait for a slot."""
        ...

    def effective(self, options: SpeculationOptions) -> SpeculationOptions:
        """The options with the deployment's defaults filled in; InvalidRequest for one not available here."""
        ...

    def readiness(self) -> Readiness: ...

    def models(self) -> Sequence[ServedModel]: ...
