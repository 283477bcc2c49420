"""Tool calls are found however the text is split into chunks, and everything else is text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adasd.text.tool_calls import Arguments, CallBegun, Said, parser_of
from adasd.text.tools import ToolForm

ONE = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "x } \\" {"}}\n</tool_call>'
TWO = ONE + '\n<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>'
OBJECT = '{"name": "add", "parameters": {"a": 1}}'
NESTED = '{"name": "stop", "arguments": {"a": [1, {"b": 2}]}}'
ESCAPED, HALF = (f'<tool_call>{{"name": "{name}", "arguments": {{}}}}' for name in (r"a\_b", r"\ud83d"))
ADD = ("add", {"a": 1, "b": 'x } " {'})


def read(form, parts, names=("add", "stop")):
    """The text, and the calls with their parsed arguments."""
    parser = parser_of(form, names)
    found = [one for part in parts for one in parser.push(part)] + parser.flush()
    said = "".join(one.text for one in found if isinstance(one, Said))
    calls = [[one.name, ""] for one in found if isinstance(one, CallBegun)]
    for one in found:
        if isinstance(one, Arguments):
            calls[one.index][1] += one.text
    return said, [(name, json.loads(arguments)) for name, arguments in calls]


CASES = [
    (ToolForm.HERMES, "just text", ("just text", [])),
    (ToolForm.HERMES, "a < b\n", ("a < b\n", [])),
    (ToolForm.HERMES, ONE, ("", [ADD])),
    (ToolForm.HERMES, TWO, ("", [ADD, ("stop", {})])),
    (ToolForm.HERMES, "Let me see.\n" + ONE, ("Let me see.", [ADD])),
    (ToolForm.HERMES, ONE + "\nDone.", ("\nDone.", [ADD])),
    (ToolForm.HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>', ("", [("add", {"a": 1})])),
    (ToolForm.HERMES, '<tool_call>{"name": "stop"}</tool_call>', ("", [("stop", {})])),
    (ToolForm.HERMES, '<tool_call>{"name": "add", "arguments": "{\\"a\\": 2}"}</tool_call>', ("", [("add", {"a": 2})])),
    (ToolForm.HERMES, "<tool_call>nonsense</tool_call>", ("<tool_call>nonsense</tool_call>", [])),
    (ToolForm.HERMES, '<tool_call>{"name": 7}</tool_call>', ('<tool_call>{"name": 7}</tool_call>', [])),
    (ToolForm.HERMES, "<tool_call>\n{", ("<tool_call>\n{", [])),
    (ToolForm.HERMES, '<tool_call>{"name": "stop"} and more', (" and more", [("stop", {})])),
    (ToolForm.HERMES, '<tool_call>{"name": "stop", "arguments": {}\n</tool_call>' + ONE, ("", [("stop", {}), ADD])),
    (ToolForm.HERMES, ESCAPED, (ESCAPED, [])),
    (ToolForm.HERMES, HALF, (HALF, [])),
    (ToolForm.HERMES, "Say  <tool_call> here", ("Say  <tool_call> here", [])),
    (ToolForm.HERMES, "Say\n\n<tool_call>\n{", ("Say\n\n<tool_call>\n{", [])),
    (ToolForm.LLAMA, '{"name": "a\\_b", "parameters": {}}', ('{"name": "a\\_b", "parameters": {}}', [])),
    (ToolForm.LLAMA, OBJECT, ("", [("add", {"a": 1})])),
    (ToolForm.LLAMA, f"{OBJECT}; {OBJECT}", ("", [("add", {"a": 1})] * 2)),
    (ToolForm.LLAMA, '{"name": "other", "parameters": {"a": 1}}', ('{"name": "other", "parameters": {"a": 1}}', [])),
    (ToolForm.LLAMA, '{"name": "add", "lives": 9}', ('{"name": "add", "lives": 9}', [])),
    (ToolForm.LLAMA, '{"some": "json"}', ('{"some": "json"}', [])),
    (ToolForm.LLAMA, "plain {text}", ("plain {text}", [])),
    (ToolForm.MISTRAL, f"[{OBJECT}, {NESTED}]", ("", [("add", {"a": 1}), ("stop", {"a": [1, {"b": 2}]})])),
    (ToolForm.MISTRAL, "[1, 2]", ("[1, 2]", [])),
    (ToolForm.MISTRAL, " [", (" [", [])),
]  # fmt: skip


@pytest.mark.parametrize(("form", "text", "expected"), CASES, ids=range(len(CASES)))
def test_calls_and_text_are_told_apart_wherever_the_text_is_cut(form, text, expected):
    assert read(form, [text]) == expected
    assert read(form, list(text)) == expected
    for cut in range(1, len(text)):
        assert read(form, [text[:cut], text[cut:]]) == expected


def test_half_a_surrogate_pair_in_arguments_stays_an_escape():
    parser = parser_of(ToolForm.HERMES, ["add"])
    text = '<tool_call>{"arguments": {"a": "\\ud83d"}, "name": "add"}</tool_call>'
    told = "".join(one.text for one in parser.push(text) if isinstance(one, Arguments))
    assert told.encode()
    assert json.loads(told) == {"a": "\ud83d"}


@given(st.text(alphabet='<>tol_ca/{}[]",: \n', max_size=60), st.sampled_from(ToolForm))
def test_text_without_a_call_is_never_lost(text, form):
    parser = parser_of(form, ["f"])
    found = [one for character in text for one in parser.push(character)] + parser.flush()
    assert "".join(one.text for one in found if isinstance(one, Said)) == text
    assert all(isinstance(one, Said) for one in found)


def test_arguments_are_told_before_the_call_is_complete():
    parser = parser_of(ToolForm.HERMES, ["add"])
    assert parser.push('<tool_call>\n{"name": "add", "arg') == []
    assert parser.push('uments": {"a": ') == [CallBegun(0, "add"), Arguments(0, '{"a": ')]
    assert parser.push("12") == [Arguments(0, "12")]
    assert parser.push("3}}\n</tool_") == [Arguments(0, "3}")]
    assert parser.push("call>") == parser.flush() == []
