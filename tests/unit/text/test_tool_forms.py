"""Chat templates with tools are recognised, and a forced call allows no other answer."""

import pytest

from adasd.errors import InvalidRequest
from adasd.requests import Grammar, GrammarKind
from adasd.text.grammar import GrammarCompiler, check_grammar
from adasd.text.tokenizer import Tokenizer
from adasd.text.tools import (
    Function,
    ToolForm,
    calls_or_format,
    closed,
    forced_calls,
    form_of,
    knows_tools,
    valid_calls,
)
from tests.unit.text.tokenizers_for_tests import CHAT_TEMPLATE, TOOL_TEMPLATE, admits, byte_level

CITY = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"city": {"enum": ["Rome", "Oslo"]}},
}
FUNCTIONS = (Function("weather", CITY), Function("stop"))
COMPILER = GrammarCompiler(lambda: Tokenizer(byte_level()))


def accepts(grammar, text):
    """Whether the text is a whole sentence of the grammar."""
    tokenizer = Tokenizer(byte_level())
    return admits(COMPILER.matcher(grammar), tokenizer.encode(text), min(tokenizer.eos_ids))


def tagged(*calls):
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


ROME = '{"name": "weather", "arguments": {"city": "Rome"}}'
STOP = '{"name": "stop", "arguments": {}}'
PARIS = '{"name": "weather", "arguments": {"city": "Paris"}}'
CASES = [
    (ToolForm.HERMES, True, [tagged(ROME), tagged(ROME, STOP)], [ROME, tagged(PARIS), "hello", ""]),
    (ToolForm.HERMES, False, [tagged(ROME), tagged(STOP)], [tagged(ROME, STOP), tagged(ROME) + " then"]),
    (ToolForm.LLAMA, True, [ROME.replace("arguments", "parameters")], [ROME, "hello"]),
    (ToolForm.MISTRAL, True, [f"[{ROME}]", f"[{ROME}, {STOP}]"], ["[]", ROME, f"[{PARIS}]"]),
    (ToolForm.MISTRAL, False, [f"[{STOP}]"], [f"[{ROME}, {STOP}]"]),
]


@pytest.mark.parametrize(("form", "parallel", "good", "bad"), CASES)
def test_forced_calls_are_calls_of_these_functions_with_valid_arguments(form, parallel, good, bad):
    grammar = forced_calls(form, FUNCTIONS, parallel)
    check_grammar(grammar)
    assert [text for text in good if not accepts(grammar, text)] == []
    assert [text for text in bad if accepts(grammar, text)] == []


def test_valid_calls_leave_text_free_and_hold_every_call():
    grammar = valid_calls(ToolForm.HERMES, FUNCTIONS, True)
    for text in ("", "hello", "1 < 2 <tool_cal", f"So:\n{tagged(ROME)}", tagged(ROME, STOP) + "\ndone"):
        assert accepts(grammar, text), text
    for text in (
        tagged(PARIS),
        "<tool_call>",
        "<tool_call>\nnonsense\n</tool_call>",
        f"x {tagged(STOP)[:-1]}",
    ):
        assert not accepts(grammar, text), text


@pytest.mark.parametrize("form", [ToolForm.LLAMA, ToolForm.MISTRAL])
def test_valid_calls_that_are_the_whole_answer_leave_other_answers_free(form):
    grammar = valid_calls(form, FUNCTIONS, True)
    call = ROME.replace("arguments", "parameters") if form is ToolForm.LLAMA else f"[{ROME}, {STOP}]"
    for text in ("", "hello {x} [y]", call):
        assert accepts(grammar, text), text
    for text in (call[:-1], call.replace("Rome", "Paris"), "{}", "[1]"):
        assert not accepts(grammar, text), text


def test_a_schema_that_is_none_is_refused():
    with pytest.raises(InvalidRequest):
        check_grammar(forced_calls(ToolForm.HERMES, [Function("f", {"type": "banana"})], True))


def test_templates_with_tools_are_told_from_those_without():
    assert knows_tools(TOOL_TEMPLATE)
    assert not knows_tools(CHAT_TEMPLATE)
    assert not knows_tools("")
    assert not knows_tools("{% set tools = 1 %}{{ tools }}")
    assert knows_tools("{% generation %}{{ tools }}{% endgeneration %}")
    assert not knows_tools("{{ broken")


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (TOOL_TEMPLATE, ToolForm.HERMES),
        ("{{ '[TOOL_CALLS] [' }}", ToolForm.MISTRAL),
        ("""{{- '"parameters": ' }}""", ToolForm.LLAMA),
        ("<tool_call><function=f>", None),
        (CHAT_TEMPLATE, None),
    ],
)
def test_the_form_of_calls_is_read_from_the_template(template, form):
    assert form_of(template) is form


def test_calls_and_results_of_earlier_turns_reach_the_template():
    tokenizer = Tokenizer(byte_level(TOOL_TEMPLATE))
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        {"role": "user", "content": "warm?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "21 degrees"},
    ]
    assert tokenizer.render_chat(messages) == (
        '<|user|>warm?<|end|><|assistant|><tool_call>weather:{"city": "Rome"}</tool_call><|end|>'
        "<|user|>21 degrees<|end|><|assistant|>"
    )
    assert '"weather"' in tokenizer.render_chat(messages, [{"function": {"name": "weather"}}])


def test_switches_of_the_template_are_known_and_reach_it():
    tokenizer = Tokenizer(byte_level("{% if shout %}!{% endif %}{{ eos_token }}{{ messages[0].content }}"))
    assert tokenizer.template_options == {"shout"}
    hello = [{"role": "user", "content": "hi"}]
    assert tokenizer.render_chat(hello) == "<|end|>hi"
    assert tokenizer.render_chat(hello, options={"shout": True}) == "!<|end|>hi"
    for name in ("eos_token", "messages", "tokenize"):
        with pytest.raises(InvalidRequest, match="it has: shout"):
            tokenizer.render_chat(hello, options={name: False})


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "assistant", "tool_calls": "x"}, "messages.0.tool_calls"),
        ({"role": "assistant", "tool_calls": [7]}, "messages.0.tool_calls.0"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]},
            "messages.0.tool_calls.0.function.arguments",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]},
            "messages.0.tool_calls.0.function.name",
        ),
        ({"role": "user", "content": "x", "tool_calls": [{}]}, "messages.0.tool_calls"),
        ({"role": "tool", "content": None}, "messages.0.content"),
        ({"role": "tool", "content": "x", "tool_call_id": 5}, "messages.0.tool_call_id"),
    ],
    ids=str,
)
def test_a_wrong_call_in_the_history_is_named(message, param):
    with pytest.raises(InvalidRequest) as refusal:
        Tokenizer(byte_level(TOOL_TEMPLATE)).render_chat([message])
    assert refusal.value.param == param


def test_tools_in_the_history_of_a_model_without_them_are_refused():
    for message in ({"role": "tool", "content": "x"}, {"role": "assistant", "tool_calls": [{}]}):
        with pytest.raises(InvalidRequest, match="does not support tools"):
            Tokenizer(byte_level()).render_chat([message])


@pytest.mark.parametrize(
    ("arguments", "shown"), [("", "{}"), (None, "{}"), ('{"city": "Ro', '"{\\"city\\": \\"Ro"')]
)
def test_calls_without_or_with_cut_arguments_are_taken_back(arguments, shown):
    call = {"function": {"name": "weather", "arguments": arguments}}
    messages = [{"role": "user", "content": "warm?"}, {"role": "assistant", "tool_calls": [call]}]
    rendered = Tokenizer(byte_level(TOOL_TEMPLATE)).render_chat(messages)
    assert f"<tool_call>weather:{shown}</tool_call>" in rendered


def test_a_template_that_cannot_write_cut_arguments_writes_none():
    template = TOOL_TEMPLATE.replace("c.function.arguments | tojson", "c.function.arguments.items() | list")
    call = {"function": {"name": "weather", "arguments": '{"city": "Ro'}}
    messages = [{"role": "user", "content": "warm?"}, {"role": "assistant", "tool_calls": [call]}]
    assert "<tool_call>weather:[]</tool_call>" in Tokenizer(byte_level(template)).render_chat(messages)


OBJECT = '{"type": "object", "properties": {"a": {"type": "integer"}}}'
ANSWERS = [
    (Grammar(GrammarKind.JSON_SCHEMA, OBJECT), '{"a": 1}', "[1]"),
    (
        Grammar(
            GrammarKind.JSON_SCHEMA,
            '{"$ref": "#/definitions/x", "definitions": {"x": {"type": "object", "properties": {"up": {"$ref": "#"}}, '
            '"additionalProperties": false}}}',
        ),
        '{"up": {"up": {}}}',
        '{"up": 1}',
    ),
    (Grammar(GrammarKind.REGEX, r"a/b|c\/d"), "a/b", "c"),
    (Grammar(GrammarKind.LARK, 'start: call ("," call)*\ncall: "a{" start? "}"'), "a{a{}},a{}", "a{"),
]


@pytest.mark.parametrize("form", ToolForm)
@pytest.mark.parametrize(("answer", "good", "bad"), ANSWERS, ids=["schema", "references", "regex", "lark"])
def test_an_answer_is_a_call_or_follows_the_format(form, answer, good, bad):
    grammar = calls_or_format(form, FUNCTIONS, True, answer)
    call = next(good for kind, _, (good, *_), _ in CASES if kind is form)
    assert accepts(grammar, call)
    assert accepts(grammar, good)
    assert not accepts(grammar, bad)
    assert not accepts(grammar, f"{good}{call}")


def test_a_function_without_parameters_takes_none():
    grammar = forced_calls(ToolForm.HERMES, [Function("now")], parallel=False)
    assert accepts(grammar, tagged('{"name": "now", "arguments": {}}'))
    assert not accepts(grammar, tagged('{"name": "now", "arguments": {"a": 1}}'))


def test_objects_are_closed_wherever_they_stand_unless_they_say_otherwise():
    inner = {"type": "object", "properties": {"b": {"type": "string"}}}
    schema = {
        "type": "object",
        "properties": {
            "properties": inner,
            "list": {"type": "array", "items": inner},
            "open": {"type": "object", "additionalProperties": True},
            "const": {"const": {"type": "object"}},
            "map": {"type": ["object", "null"], "additionalProperties": inner},
            "both": {"allOf": [inner, inner]},
        },
        "$defs": {"d": {"anyOf": [inner, {"type": "null"}]}},
    }
    shut = {**inner, "additionalProperties": False}
    assert closed(schema) == {
        "type": "object",
        "properties": {
            "properties": shut,
            "list": {"type": "array", "items": shut},
            "open": {"type": "object", "additionalProperties": True},
            "const": {"const": {"type": "object"}},
            "map": {"type": ["object", "null"], "additionalProperties": shut},
            "both": {"allOf": [inner, inner]},
        },
        "$defs": {"d": {"anyOf": [shut, {"type": "null"}]}},
        "additionalProperties": False,
    }
