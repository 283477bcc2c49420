"""Grammars that constrain an answer: validation, compilation, and token masks along the text.

llguidance does the work (an Earley parser over a regular-expression lexer, in Rust; a mask takes microseconds). A
grammar describes text: special tokens are never part of it, and end-of-sequence tokens are allowed only where the text
may end.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer
from numpy.typing import NDArray

from adasd.errors import InvalidRequest
from adasd.requests import Grammar, GrammarKind
from adasd.text.tokenizer import Tokenizer
from adasd.text.tools import BLANKS

Mask = NDArray[np.bool_]
"""Allowed token ids, [V] with V the tokenizer's vocabulary size."""

MAX_GRAMMAR_CHARS = 256 * 1024
_LIMITS = LLParserLimits(verbose_errors=False)


def check_grammar(grammar: Grammar) -> None:
    """Raise InvalidRequest with the reason if the grammar does not compile. Takes milliseconds; needs no tokenizer."""
    reason = LLMatcher.validate_grammar(_source(grammar), None, limits=_LIMITS)
    if reason:
        raise _refusal(grammar, reason)


class GrammarCompiler:
    """Compiles grammars for one vocabulary and caches the ``num_kept`` most recent. Thread-safe.

    ``load`` returns the tokenizer; it is called for the first grammar.
    """

    def __init__(self, load: Callable[[], Tokenizer], num_kept: int = 64) -> None:
        self._load, self._num_kept = load, num_kept
        self._vocabulary: LLTokenizer | None = None
        self._end_V: Mask = np.zeros(0, np.bool_)
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()  # guards the cache; never held while compiling
        self._loading = threading.Lock()

    def matcher(self, grammar: Grammar) -> Matcher:
        """A matcher at the start of the grammar; raises InvalidRequest if the grammar does not compile."""
        with self._lock:
            compiled = self._compiled.get(grammar)
        if compiled is None:
            compiled = self._compile(grammar)
        with self._lock:
            self._compiled[grammar] = compiled
            self._compiled.move_to_end(grammar)
            if len(self._compiled) > self._num_kept:
                self._compiled.popitem(last=False)
            return Matcher(compiled.deep_copy(), self._end_V)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        vocabulary = self._load_vocabulary()
        compiled = LLMatcher(vocabulary, _source(grammar), log_level=0, limits=_LIMITS)
        if compiled.is_error():
            raise _refusal(grammar, compiled.get_error())
        return compiled

    def _load_vocabulary(self) -> LLTokenizer:
        with self._loading:
            if self._vocabulary is None:
                tokenizer = self._load()
                vocabulary = _vocabulary_of(tokenizer)
                self._end_V = np.zeros(vocabulary.vocab_size, np.bool_)
                self._end_V[sorted(tokenizer.eos_ids)] = True
                self._vocabulary = vocabulary
            return self._vocabulary


class Matcher:
    """The position of a token sequence in a grammar; can be extended and rolled back.

    Once the sequence has left the grammar (as drafted tokens may) or ended, further tokens are only counted, so that a
    roll-back is always possible. ``end_V``: mask of the end-of-sequence tokens.
    """

    def __init__(self, inner: LLMatcher, end_V: Mask) -> None:
        self._inner, self._end_V = inner, end_V
        self._num_taken = 0  # tokens within the grammar
        self._num_beyond = 0  # tokens after the sequence left the grammar or ended

    def __len__(self) -> int:
        return self._num_taken + self._num_beyond

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens."""
        num = 0 if self._num_beyond else self._take(tokens)
        self._num_taken += num
        self._num_beyond += len(tokens) - num

    def cut(self, length: int) -> None:
        """Roll back to the first ``length`` tokens."""
        assert 0 <= length <= len(self), (length, len(self))
        self._num_beyond = max(0, length - self._num_taken)
        if length < self._num_taken:
            self._back(self._num_taken - length)
            self._num_taken = length

    def masks(self, ahead: Sequence[int] = (), first: int = 0) -> list[Mask]:
        """Masks after ``ahead[:first]`` and after each further token of ``ahead``; the state does not change.

        After a token that leaves the grammar or ends the text, only end-of-sequence tokens are allowed. Raises
        InvalidRequest if the grammar becomes too ambiguous for the parser.
        """
        if self._num_beyond:
            return [self._end_V] * (len(ahead) - first + 1)
        num_taken = self._take(ahead[:first])
        masks: list[Mask] = []
        try:
            if num_taken == first:
                masks.append(self._mask())
                for token in ahead[first:]:
                    if self._take([token]) == 0:
                        break
                    num_taken += 1
                    masks.append(self._mask())
        finally:
            self._back(num_taken)
        return masks + [self._end_V] * (len(ahead) - first + 1 - len(masks))

    def _take(self, tokens: Sequence[int]) -> int:
        """Feed tokens to the parser, up to the first that leaves the grammar or ends the text; returns how many."""
        end = next((i for i, token in enumerate(tokens) if not self._is_text(token)), len(tokens))
        num = int(self._inner.validate_tokens(list(tokens[:end])))
        if num:
            self._inner.consume_tokens(list(tokens[:num]))
        return num

    def _is_text(self, token: int) -> bool:
        return 0 <= token < len(self._end_V) and not self._end_V[token]

    def _back(self, num_tokens: int) -> None:
        if num_tokens:
            self._inner.rollback(num_tokens)

    def _mask(self) -> Mask:
        self._check()
        bits = np.frombuffer(self._inner.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, count=len(self._end_V), bitorder="little").view(np.bool_)

    def _check(self) -> None:
        """Raise InvalidRequest once the parser has given up. Extending and rolling back do not raise."""
        if self._inner.is_error():
            raise InvalidRequest(
                f"the grammar became too ambiguous to follow: {_short(self._inner.get_error())}", "grammar"
            )


def _vocabulary_of(tokenizer: Tokenizer) -> LLTokenizer:
    """The vocabulary as bytes; takes up to a second."""
    if not tokenizer.eos_ids:
        raise InvalidRequest(
            "this model has no end-of-sequence token, which grammars need",
            "grammar",
        )
    try:
        return from_tokenizer(tokenizer.inner, eos_token=sorted(tokenizer.eos_ids))
    except ValueError as error:
        raise InvalidRequest(
            f"this model's tokenizer does not support grammars: {_short(str(error))}", "grammar"
        ) from error


def _source(grammar: Grammar) -> str:
    """The grammar in llguidance's form."""
    if len(grammar.text) > MAX_GRAMMAR_CHARS:
        raise InvalidRequest(
            f"the grammar has {len(grammar.text)} characters; the limit is {MAX_GRAMMAR_CHARS}",
            "grammar",
        )
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            try:
                return str(LLMatcher.grammar_from_json_schema(grammar.text, {"whitespace_pattern": BLANKS}))
            except ValueError as error:
                raise _refusal(grammar, str(error)) from error
        case GrammarKind.REGEX:
            return str(LLMatcher.grammar_from_regex(grammar.text))
        case GrammarKind.LARK:
            return str(LLMatcher.grammar_from_lark(grammar.text))


def _refusal(grammar: Grammar, reason: str) -> InvalidRequest:
    return InvalidRequest(f"the {grammar.kind} grammar does not compile: {_short(reason)}", "grammar")


def _short(reason: str) -> str:
    return reason.strip()[:500]
