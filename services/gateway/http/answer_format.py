"""The required format of an answer: OpenAI's ``response_format`` and the field names of vLLM's clients."""

from __future__ import annotations

import json
import re
from typing import Any

from adasd.errors import InvalidRequest
from adasd.requests import Grammar, GrammarKind
from adasd.text.tools import closed, without_words
from services.gateway.http.schema import GenerationBody, ResponseFormat

JSON_OBJECT = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}')
SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")


def grammar_of(body: GenerationBody) -> tuple[str, Grammar] | None:
    """The field that sets a grammar, and the grammar; None if there is none. Not compiled yet.

    Raises InvalidRequest for more than one.
    """
    asked = [*_response_format(body.response_format), *_structured(body), *_guided(body)]
    if body.bad_words:
        asked.append(("bad_words", without_words(body.bad_words)))
    if len(asked) > 1:
        (where, _), (other, _), *_ = asked
        raise InvalidRequest(f"{where} and {other} both say what the answer looks like; send one", where)
    return asked[0] if asked else None


def _response_format(form: ResponseFormat | None) -> list[tuple[str, Grammar]]:
    match form.type if form else "text":
        case "json_object":
            return [("response_format", JSON_OBJECT)]
        case "json_schema":
            assert form is not None
            if form.json_schema is None:
                raise InvalidRequest(
                    "response_format of type json_schema needs json_schema: {name, schema}",
                    "response_format.json_schema",
                )
            where = "response_format.json_schema.schema"
            schema = form.json_schema.schema_ or {}
            return [(where, _of_schema(closed(schema) if form.json_schema.strict else schema, where))]
    return []


def _structured(body: GenerationBody) -> list[tuple[str, Grammar]]:
    options = body.structured_outputs
    if options is None:
        return []
    named = options.model_dump(exclude_none=True, by_alias=True)
    return [
        _named(kind, value, f"structured_outputs.{kind}")
        for kind, value in named.items()
        if value is not False
    ]


def _guided(body: GenerationBody) -> list[tuple[str, Grammar]]:
    named = {f"guided_{kind}": kind for kind in ("json", "regex", "choice", "grammar")} | {
        "json_schema": "json"
    }
    sent = {name: getattr(body, name) for name in named}
    return [_named(named[name], value, name) for name, value in sent.items() if value is not None]


def _named(kind: str, value: Any, where: str) -> tuple[str, Grammar]:
    match kind:
        case "json":
            return where, _of_schema(value, where)
        case "json_object":
            return where, JSON_OBJECT
        case "choice":
            return where, Grammar(GrammarKind.REGEX, "|".join(_literal(one) for one in value))
        case "regex":
            return where, Grammar(GrammarKind.REGEX, value)
        case _:
            return where, Grammar(GrammarKind.LARK, value)


def _of_schema(schema: Any, where: str) -> Grammar:
    """A schema given as an object or as JSON text."""
    try:
        parsed = json.loads(schema) if isinstance(schema, str) else schema
        return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(parsed, allow_nan=False))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{where} is not JSON: {error}", where) from None


def _literal(text: str) -> str:
    """A regular expression that matches exactly this text."""
    return SPECIAL.sub(r"\\\g<0>", text)
