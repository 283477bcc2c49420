"""Grammars: they allow exactly their language, and roll-backs leave no trace."""

from __future__ import annotations

import json
import random
import re

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLParserLimits

from adasd.errors import InvalidRequest
from adasd.requests import Grammar, GrammarKind
from adasd.text import grammar as grammar_module
from adasd.text.grammar import MAX_GRAMMAR_CHARS, GrammarCompiler, check_grammar
from adasd.text.tokenizer import Tokenizer
from tests.unit.text.tokenizers_for_tests import byte_fallback, byte_level

TOKENIZER = Tokenizer(byte_level())
COMPILER = GrammarCompiler(lambda: TOKENIZER)
EOS = min(TOKENIZER.eos_ids)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "bb"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
JSON = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))
REGEX = Grammar(GrammarKind.REGEX, r"(ab|ba){1,3}c?[0-9]{2}")
LARK = Grammar(GrammarKind.LARK, 'start: "(" start ")" | "x"')


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether the text is a whole sentence, by code independent of the parser."""
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            jsonschema.validate(json.loads(text), json.loads(grammar.text))
            return True
        case GrammarKind.REGEX:
            return re.fullmatch(grammar.text, text) is not None
        case GrammarKind.LARK:
            half = len(text) // 2
            return text == "(" * half + "x" + ")" * half


def walk(grammar: Grammar, chance: random.Random, max_tokens: int = 60) -> list[int]:
    """A random sentence, as from a model with uniform probabilities; cut off after ``max_tokens``."""
    matcher, tokens = COMPILER.matcher(grammar), []
    while len(tokens) < max_tokens:
        (mask,) = matcher.masks()
        allowed = mask.nonzero()[0].tolist()
        assert allowed, "there is always something that may come"
        tokens.append(chance.choice([EOS] if mask[EOS] and chance.random() < 0.5 else allowed))
        if tokens[-1] == EOS:
            break
        matcher.extend(tokens[-1:])
    return tokens


@pytest.mark.parametrize("grammar", [JSON, REGEX, LARK], ids=lambda one: one.kind)
def test_whatever_ends_within_a_grammar_is_a_sentence_of_it(grammar):
    ended = 0
    for seed in range(40):
        tokens = walk(grammar, random.Random(seed))
        if tokens[-1] == EOS:
            ended += 1
            assert accepts(grammar, TOKENIZER.decode(tokens)), TOKENIZER.decode(tokens)
    assert ended >= 10, "enough walks came to an end for the test to mean something"


@settings(max_examples=60)
@given(st.sampled_from([JSON, REGEX, LARK]), st.integers(0, 2**32), st.data())
def test_going_forth_and_back_is_as_having_gone_straight(grammar, seed, data):
    """Steps are extensions (by a sentence's tokens, or by any), roll-backs and look-aheads; the twin starts anew."""
    chance = random.Random(seed)
    sentence, text, matcher = walk(grammar, chance), [], COMPILER.matcher(grammar)
    for _ in range(data.draw(st.integers(1, 8))):
        match data.draw(st.sampled_from(["on", "astray", "back", "look"])):
            case "on":
                more = sentence[len(text) : len(text) + data.draw(st.integers(0, 6))]
                matcher.extend(more)
                text += more
            case "astray":
                more = [chance.randrange(TOKENIZER.vocab_size) for _ in range(data.draw(st.integers(1, 3)))]
                matcher.extend(more)
                text += more
            case "back":
                length = data.draw(st.integers(0, len(text)))
                matcher.cut(length)
                del text[length:]
            case "look":
                ahead = [*sentence[len(text) : len(text) + 3], chance.randrange(TOKENIZER.vocab_size)]
                matcher.masks(ahead)
        twin = COMPILER.matcher(grammar)
        twin.extend(text)
        assert len(matcher) == len(twin) == len(text)
        for ours, theirs in zip(matcher.masks(sentence[:2]), twin.masks(sentence[:2]), strict=True):
            assert np.array_equal(ours, theirs)


def test_masks_ahead_are_those_of_the_steps():
    tokens = list(TOKENIZER.encode("ababc12"))
    matcher, stepped = COMPILER.matcher(REGEX), COMPILER.matcher(REGEX)
    for mask, token in zip(matcher.masks([*tokens, EOS]), tokens, strict=False):
        (own,) = stepped.masks()
        assert np.array_equal(mask, own)
        stepped.extend([token])
    for first in range(len(tokens) + 2):
        some = matcher.masks([*tokens, EOS], first)
        assert np.array_equal(some, matcher.masks([*tokens, EOS])[first:])
    last = matcher.masks([*tokens, EOS])[-2:]
    assert last[0].nonzero()[0].tolist() == [EOS], "a grammar that has ended leaves nothing but the end"
    assert np.array_equal(last[1], last[0]), "and nothing else follows the end"


def test_tokens_astray_are_counted_and_forgotten():
    matcher = COMPILER.matcher(REGEX)
    matcher.extend(TOKENIZER.encode("ab"))
    good = len(matcher)
    matcher.extend([*TOKENIZER.encode("zzz"), EOS, 10**6, -1])
    assert [mask.nonzero()[0].tolist() for mask in matcher.masks([1, 2])] == [[EOS]] * 3
    matcher.cut(good)
    (mask,) = matcher.masks()
    assert mask[TOKENIZER.encode("a")[0]]


def test_other_tokenizers_follow_too():
    tokenizer = Tokenizer(byte_fallback())
    matcher = GrammarCompiler(lambda: tokenizer).matcher(Grammar(GrammarKind.REGEX, "(yes|no)"))
    (mask,) = matcher.masks()
    assert {tokenizer.decode([i])[:1] for i in mask.nonzero()[0].tolist()} <= {"y", "n"}
    assert mask.any()


@pytest.mark.parametrize(
    ("kind", "text", "complaint"),
    [
        ("json_schema", '{"type": "strin"}', "Invalid type: strin"),
        ("json_schema", '{"type"', "json_schema grammar does not compile"),
        ("json_schema", '{"type": "string", "enum": []}', "Unsatisfiable"),
        ("json_schema", '{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ("json_schema", '{"$ref": "http://127.0.0.1/x"}', "does not fetch"),
        ("regex", "a(b", "unclosed group"),
        ("regex", "a(?=b)", "look-around"),
        ("lark", "start: foo", "unknown name"),
        ("lark", "", "lark grammar does not compile"),
        ("regex", "a" * (MAX_GRAMMAR_CHARS + 1), "262145 characters; the limit is 262144"),
    ],
)
def test_what_does_not_compile_is_refused_with_the_reason(kind, text, complaint):
    grammar = Grammar(GrammarKind(kind), text)
    for refuse in (check_grammar, COMPILER.matcher):
        with pytest.raises(InvalidRequest, match=complaint) as refusal:
            refuse(grammar)
        assert refusal.value.param == "grammar"
        assert len(str(refusal.value)) < 700


def test_what_compiles_passes():
    for grammar in (JSON, REGEX, LARK, Grammar(GrammarKind.JSON_SCHEMA, "{}")):
        check_grammar(grammar)


def test_a_model_without_an_end_cannot_follow_grammars():
    inner = byte_level()
    inner.eos_token = None
    with pytest.raises(InvalidRequest, match="no end-of-sequence token"):
        GrammarCompiler(lambda: Tokenizer(inner)).matcher(REGEX)


def test_the_tokenizer_is_loaded_once_and_the_newest_grammars_are_kept():
    loads = []
    compiler = GrammarCompiler(lambda: loads.append(1) or TOKENIZER, num_kept=2)
    for text in ("a", "b", "a", "c", "a"):
        compiler.matcher(Grammar(GrammarKind.REGEX, text))
    assert len(loads) == 1
    assert [grammar.text for grammar in compiler._compiled] == ["c", "a"]


def test_blanks_in_json_come_to_an_end():
    matcher = COMPILER.matcher(Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}'))
    blank = TOKENIZER.encode(" ")[0]
    matcher.extend(TOKENIZER.encode("{"))
    matcher.extend([blank] * 40)
    assert matcher.masks()[0].nonzero()[0].tolist() == [EOS]


def test_a_parser_that_gives_up_says_so_at_the_next_look_and_nowhere_else(monkeypatch):
    """An engine extends and rolls back where it cannot report an error to a caller."""
    monkeypatch.setattr(grammar_module, "_LIMITS", LLParserLimits(step_max_items=1, verbose_errors=False))
    ambiguous = Grammar(GrammarKind.LARK, 'start: a a a a\na: "x" | "x" a | a a')
    matcher = GrammarCompiler(lambda: TOKENIZER).matcher(ambiguous)
    (x,) = TOKENIZER.encode("x")
    assert matcher.masks()[0][x]
    matcher.extend([x])
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="too ambiguous to follow"):
            matcher.masks([x, x])
    matcher.extend([x, x, EOS])
    matcher.cut(1)
    assert len(matcher) == 1
    with pytest.raises(InvalidRequest, match="too ambiguous to follow"):
        matcher.masks()
