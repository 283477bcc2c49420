"""The part of a session's text that changes its next probabilities: tokens seen, and the state of a grammar.

The state follows the tokens of the slot, so it is also right after rejections, lookahead, repeated prefill and prefix
cache hits. Sessions without penalties and grammar have none. No tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

from adasd.errors import InvalidRequest
from adasd.rounds import SamplingTransform
from adasd.specdec.penalties import SeenCounts, TokenCounts, has_penalties
from adasd.text.grammar import GrammarCompiler, Mask, Matcher


class LogitsState:
    """Follows one slot's tokens from position 0 on."""

    def __init__(self, answer_from: int, counts: TokenCounts | None, matcher: Matcher | None) -> None:
        self._answer_from, self._counts, self._matcher = answer_from, counts, matcher
        self._length = 0

    @classmethod
    def of(
        cls, transform: SamplingTransform, vocab_size: int, grammars: GrammarCompiler | None
    ) -> LogitsState | None:
        """The state that the transform needs; raises InvalidRequest for a grammar if there is no compiler."""
        matcher = None
        if transform.grammar is not None:
            if grammars is None:
                raise InvalidRequest("this engine has no tokenizer, which grammars need", "grammar")
            matcher = grammars.matcher(transform.grammar)
        counts = TokenCounts(transform, vocab_size) if has_penalties(transform) else None
        if counts is None and matcher is None:
            return None
        return cls(transform.answer_from, counts, matcher)

    def __len__(self) -> int:
        return self._length

    def extend(self, tokens: Sequence[int]) -> None:
        """Append these tokens."""
        if self._counts is not None:
            self._counts.extend(tokens, self._length)
        if self._matcher is not None:
            self._matcher.extend(self._of_answer(tokens))
        self._length += len(tokens)

    def cut(self, removed: Sequence[int]) -> None:
        """Remove the last tokens, which are ``removed``."""
        self._length -= len(removed)
        if self._counts is not None:
            self._counts.cut(removed, self._length)
        if self._matcher is not None:
            self._matcher.cut(max(0, self._length - self._answer_from))

    def seen(self, tokens: Sequence[int], num_positions: int) -> SeenCounts | None:
        """As ``TokenCounts.ahead``; None without penalties."""
        return self._counts.ahead(tokens, self._length, num_positions) if self._counts is not None else None

    def masks(self, tokens: Sequence[int], num_positions: int) -> list[Mask]:
        """Tokens allowed at each of the last ``num_positions`` positions after ``tokens``; empty: no grammar.

        Positions before the answer have no mask; there are fewer masks then, for the last positions only.
        """
        if self._matcher is None:
            return []
        answer = self._of_answer(tokens)
        return self._matcher.masks(answer, first=max(0, len(answer) - num_positions + 1))

    def _of_answer(self, tokens: Sequence[int]) -> Sequence[int]:
        return tokens[max(0, self._answer_from - self._length) :]
