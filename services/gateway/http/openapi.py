"""The OpenAPI document: bodies are parsed by hand (limits, strict JSON), so their schemas are added here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from services.gateway.http.responses.body import RESPONSES_BODY, ResponsesBody
from services.gateway.http.schema import CHAT_BODY, COMPLETION_BODY, Body, GenerationBody
from services.gateway.http.tokenize_routes import DetokenizeBody, TokenizeBody

REF = "#/components/schemas/{model}"
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
BODIES: tuple[type[Body], ...] = (CHAT_BODY, COMPLETION_BODY, RESPONSES_BODY, TokenizeBody, DetokenizeBody)
EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
STREAMED = {"200": {"content": {"text/event-stream": {"schema": EVENT}}}}
"""The response to ``stream: true``, in addition to FastAPI's own application/json."""
STREAMING = (GenerationBody, ResponsesBody)
"""Bodies with ``stream``."""
READ_ERROR_STATUSES = ("401", "404", "429", "500", "503")
ERROR_STATUSES = ("400", "401", "404", "413", "415", "429", "500", "503", "504")


def body_doc(kind: type[Body]) -> dict[str, Any]:
    """``openapi_extra`` of a route that takes this body."""
    schema = {"$ref": REF.format(model=kind.__name__)}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {**errors(ERROR_STATUSES), **(STREAMED if issubclass(kind, STREAMING) else {})},
    }


def errors(statuses: Sequence[str]) -> dict[str, Any]:
    """``responses`` of an operation that may return these error statuses."""
    error = {"content": {"application/json": {"schema": {"$ref": REF.format(model="Error")}}}}
    return {status: {"description": "error", **error} for status in statuses}


def document(app: FastAPI) -> None:
    """Add the schemas that ``body_doc`` refers to to the application's document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            spec = get_openapi(title=app.title, version=app.version, routes=app.routes)
            schemas = spec.setdefault("components", {}).setdefault("schemas", {})
            schemas["Error"] = ERROR
            for operation in (
                operations["get"] for operations in spec["paths"].values() if "get" in operations
            ):
                operation["responses"].pop("422", None)  # added by FastAPI; invalid input is a 400 here
                operation["responses"] = {**errors(READ_ERROR_STATUSES), **operation["responses"]}
            for kind in BODIES:
                schema = kind.model_json_schema(ref_template=REF)
                schemas.update(schema.pop("$defs", {}))
                schemas[kind.__name__] = schema
            app.openapi_schema = spec
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
