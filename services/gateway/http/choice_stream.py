"""One choice of a response in progress: what each verify step adds to it.

Streams write every piece as it comes; whole responses join the pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adasd.errors import AdasdError
from adasd.results import Chunk, Complete, FinishReason, TokenLogprob
from adasd.text import detokenizer
from adasd.text.detokenizer import DetokenizerState
from services.gateway.backend import Text
from services.gateway.http.order import Order
from services.gateway.http.provenance import Provenance
from services.gateway.http.token_lists import ListedToken


@dataclass(frozen=True, slots=True)
class ChoiceDelta:
    """What one step adds; ``listed`` and ``provenance`` are empty unless requested."""

    text: str
    num_tokens: int
    finish_reason: str | None  # OpenAI's name for it
    listed: tuple[ListedToken, ...] = ()
    provenance: tuple[dict[str, Any], ...] = ()
    calls: tuple[dict[str, Any], ...] = ()  # deltas of tool calls
    prompt: tuple[TokenLogprob, ...] = ()  # of the prompt's tokens from the second on


class ChoiceReader:
    """Turns the events of one answer into pieces. ``index`` is that of the choice and of the order's request."""

    def __init__(self, order: Order, index: int, text: Text) -> None:
        self.finished = False
        self._order, self._request, self._text = order, order.requests[index], text
        self._echo = order.echo[index] if order.echo else None
        self._provenance = Provenance(text.decode) if order.provenance else None
        self._calls = order.tools.reader() if order.tools else None
        self._offsets = _Offsets(text)

    def read(self, chunk: Chunk) -> ChoiceDelta:
        """The next piece; the first one begins with the prompt if the order echoes it."""
        listed: tuple[ListedToken, ...] = ()
        shown = ""
        if self._echo is not None:
            listed, shown = self._listed_prompt(chunk, self._echo), self._echo
            self._echo = None
        tokens = chunk.tokens
        self.finished = chunk.finish_reason is not None
        prompt = chunk.prompt_logprobs if self._order.prompt_logprobs else ()
        if self._order.only_prompt:
            return ChoiceDelta(shown, 0, self._reason(chunk), listed, prompt=prompt)
        if self._order.logprobs:
            listed = (*listed, *(self._listed(token.id, token.logprob) for token in tokens))
        provenance = self._provenance.listed(chunk) if self._provenance else ()
        text, calls = self._calls.read(chunk.text, self.finished) if self._calls else (chunk.text, ())
        reason = self._reason(chunk)
        return ChoiceDelta(shown + text, len(tokens), reason, listed, tuple(provenance), calls, prompt)

    def end(self, complete: Complete) -> ChoiceDelta | None:
        """The last piece of an answer that ended without a last chunk (no tokens, cancelled); otherwise None."""
        return None if self.finished else self.read(Chunk("", (), complete.finish_reason))

    def _reason(self, chunk: Chunk) -> str | None:
        if chunk.finish_reason is FinishReason.STOP and self._calls is not None and self._calls.has_called:
            return "tool_calls"
        return chunk.finish_reason.value if chunk.finish_reason else None

    def _listed_prompt(self, chunk: Chunk, shown: str) -> tuple[ListedToken, ...]:
        if not self._order.logprobs:
            return ()
        first, *rest = self._request.prompt
        if len(chunk.prompt_logprobs) != len(rest):
            raise AdasdError(
                f"the prompt has {len(rest) + 1} tokens, but {len(chunk.prompt_logprobs)} log-probabilities came"
            )
        known: list[TokenLogprob | None] = [None, *chunk.prompt_logprobs]
        listed = [
            ListedToken(token_id, logprob, self._offsets.of(token_id))
            for token_id, logprob in zip((first, *rest), known, strict=True)
        ]
        self._offsets = _Offsets(self._text, len(shown))  # the answer's text follows the prompt's
        return tuple(listed)

    def _listed(self, token_id: int, logprob: TokenLogprob | None) -> ListedToken:
        if logprob is None:
            raise AdasdError(f"token {token_id} of the answer came without the log-probability asked for")
        return ListedToken(token_id, logprob, self._offsets.of(token_id))


class _Offsets:
    """Offset of each token's text, in characters. A token inside a character has the offset of that character."""

    def __init__(self, text: Text, num_shown: int = 0) -> None:
        self._decode, self._num_shown = text.decode, num_shown
        self._state = DetokenizerState()

    def of(self, token_id: int) -> int:
        offset = self._num_shown
        self._state, piece = detokenizer.push(self._state, (token_id,), self._decode)
        self._num_shown += len(piece)
        return offset
