"""A Backend without a model that does as it is asked: it calls tools, keeps to grammars, and reads results.

It stands behind our own HTTP server, so that a framework meets the real door in milliseconds.
"""

from __future__ import annotations

import json

from adasd.requests import GenerationRequest
from adasd.text.grammar import GrammarCompiler
from adasd.text.tokenizer import Tokenizer
from tests.clients.frameworks.flow import ANSWER, CITY, REPORT, TOM
from tests.unit.gateway.fake_backend import FakeBackend
from tests.unit.text.tokenizers_for_tests import TOOL_TEMPLATE, admits, byte_level

CAT = TOM.model_dump()
ARGUMENTS = {"weather": {"city": CITY}, "Cat": CAT, "PartialCat": CAT}
"""What it calls functions with, by their names; frameworks make a function of a class."""
CONTEXT_LEN = 32_768


def called(name: str) -> str:
    """A call of this function, in Hermes format."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': ARGUMENTS[name]})}\n</tool_call>"


class Obliging(FakeBackend):
    """Answers a result with ANSWER, a grammar with what it admits, tools with a call."""

    def __init__(self) -> None:
        super().__init__(tokenizer=Tokenizer(byte_level(TOOL_TEMPLATE)), context_len=CONTEXT_LEN)
        self.compiler = GrammarCompiler(lambda: self.tokenizer)

    def answer_to(self, request: GenerationRequest, text: str) -> str:
        grammar = request.sampling.grammar
        calls = [called(name) for name in ARGUMENTS if f'"name": "{name}"' in text]
        if REPORT in text:
            calls = []
        possible = [*calls, ANSWER, json.dumps(CAT)]
        if grammar is None:
            return possible[0]
        end, matcher = min(self.tokenizer.eos_ids), self.compiler.matcher(grammar)
        fits = [one for one in possible if admits(matcher, self.tokenizer.encode(one), end)]
        assert fits, f"no answer of {possible} follows {grammar.text}"
        return fits[0]
