"""The format of an answer, under all the names that clients use for it."""

import json

import pytest

from adasd.requests import Grammar, GrammarKind
from adasd.text.grammar import GrammarCompiler
from tests.unit.gateway.fake_backend import TOKENIZER
from tests.unit.text.tokenizers_for_tests import admits

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
JSON = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))
CLOSED = Grammar(GrammarKind.JSON_SCHEMA, json.dumps({**SCHEMA, "additionalProperties": False}))
OBJECT = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}')
LARK = 'start: "a" "b"'


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": None, "guided_json": None, "structured_outputs": None}, None),
        ({"structured_outputs": {}}, None),
        ({"structured_outputs": {"json_object": False}}, None),
        ({"response_format": {"type": "json_object"}}, OBJECT),
        ({"structured_outputs": {"json_object": True}}, OBJECT),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "strict": True, "description": "d", "schema": SCHEMA},
                }
            },
            CLOSED,
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            JSON,
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "any"}}},
            Grammar(GrammarKind.JSON_SCHEMA, "{}"),
        ),
        ({"guided_json": SCHEMA}, JSON),
        ({"guided_json": json.dumps(SCHEMA)}, JSON),
        ({"structured_outputs": {"json": SCHEMA}}, JSON),
        ({"guided_regex": "a+"}, Grammar(GrammarKind.REGEX, "a+")),
        ({"structured_outputs": {"regex": "a+"}}, Grammar(GrammarKind.REGEX, "a+")),
        ({"guided_grammar": LARK}, Grammar(GrammarKind.LARK, LARK)),
        ({"structured_outputs": {"grammar": LARK}}, Grammar(GrammarKind.LARK, LARK)),
        ({"guided_choice": ["yes", "n.o"]}, Grammar(GrammarKind.REGEX, r"yes|n\.o")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, Grammar(GrammarKind.REGEX, "a|b")),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_every_name_becomes_the_grammar_of_the_request(door, path, fields, grammar):
    content = (
        {"prompt": "cat"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "x"}]}
    )
    response = await door.post(path, {**content, **fields})
    assert response.status_code == 200, response.text
    assert door.backend.tally.requests[0].sampling.grammar == grammar


async def test_a_choice_admits_its_texts_and_no_others(door):
    texts = ["yes", "a.b", r"(x|y)*\d", "[no]", "{1}", "$^"]
    await door.chat(guided_choice=texts)
    grammar = door.backend.tally.requests[0].sampling.grammar
    for text in [*texts, "axb", "yesyes", "", "1"]:
        matcher = GrammarCompiler(lambda: TOKENIZER).matcher(grammar)
        assert admits(matcher, TOKENIZER.encode(text), min(TOKENIZER.eos_ids)) is (text in texts), text
