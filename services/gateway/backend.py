"""What the gateway needs of whoever makes the answers; implemented by services.orchestrator, faked in tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from adasd.errors import Overloaded
from adasd.methods.policy import Described
from adasd.requests import GenerationRequest, SpeculationOptions
from adasd.results import Chunk, Complete
from adasd.text.tools import ToolForm


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests are served, and if not (or not fully) why: one sentence per reason."""

    ready: bool
    degraded: bool = False  # the target serves without a draft
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model that clients may name."""

    id: str
    context_len: int  # tokens of prompt + answer
    created: int  # seconds since 1970
    target: str = ""  # folder name or id of the large model
    draft: str = ""  # folder name or id of the small model; empty: there is none
    drafts: Sequence[Described] = ()  # draft sources that requests may name


class Text(Protocol):
    """Text to token ids and back (adasd.text.tokenizer.Tokenizer); blocking, safe in threads."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_token_chars(self) -> int:
        """Characters that one token stands for at most."""
        ...

    def encode(self, text: str, add_special_tokens: bool = True) -> tuple[int, ...]: ...

    @property
    def knows_tools(self) -> bool:
        """Whether the chat template can tell the model of tools."""
        ...

    @property
    def tool_form(self) -> ToolForm | None:
        """How the model writes calls; None if its template shows none of the known forms."""
        ...

    @property
    def template_options(self) -> frozenset[str]:
        """Switches of the model's own chat template."""
        ...

    def apply_chat_template(
        self, messages: Sequence[Any], tools: Sequence[Any] = (), options: Mapping[str, Any] = ...
    ) -> tuple[int, ...]:
        """Raises InvalidRequest if the messages or the model's template do not allow it."""
        ...

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...

    def pieces(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        """The tokens as the vocabulary writes them."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for, which need not be whole characters."""
        ...


class Backend(Protocol):
    """Makes answers. All but ``generate`` answer at once from what is known."""

    @property
    def tokenizer(self) -> Text: ...

    @property
    def model_name(self) -> str: ...

    @property
    def context_len(self) -> int:
        """Tokens of prompt + answer that a session can hold."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk | Complete, None]:
        """Chunks, one per verification step, then Complete.

        Raises an AdasdError before the first event if the request is refused (Overloaded, InvalidRequest), later
        if the answer failed. Closing or cancelling the iterator cancels the request and frees its slots.
        """
        ...

    def refusal(self) -> Overloaded | None:
        """Why a request that comes now is refused, whatever it asks for; None if it may run or wait."""
        ...

    def abort(self, request_id: str) -> bool:
        """End a running answer: its stream ends with finish reason ``cancelled``. False if none of that id runs."""
        ...

    @property
    def num_running(self) -> int:
        """Answers in the making, waiting ones included."""
        ...

    def effective(self, options: SpeculationOptions) -> SpeculationOptions:
        """The options with the deployment's defaults filled in; raises InvalidRequest for one that cannot be had."""
        ...

    def readiness(self) -> Readiness: ...

    def models(self) -> Sequence[ServedModel]: ...
