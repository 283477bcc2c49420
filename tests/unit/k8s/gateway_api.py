"""The part of the Gateway API (v1, standard channel) that we write, as strict schemas."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
HOST = {
    "type": "string",
    "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
}
DURATION = {"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}


def closed(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    """An object with these properties and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def several(item: Any, most: int) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1, "maxItems": most}


def route(kind: str, **more: Any) -> Draft202012Validator:
    """A validator for routes of a kind, with ``more`` in their rules."""
    port = {"type": "integer", "minimum": 1, "maximum": 65535}
    backend = closed(("name", "port"), name=NAME, port=port)
    parent = closed(("name",), name=NAME, namespace=NAME, sectionName=NAME)
    rule = closed(("backendRefs",), backendRefs=several(backend, 16), **more)
    spec = closed(
        ("parentRefs", "hostnames", "rules"),
        parentRefs=several(parent, 32),
        hostnames=several(HOST, 16),
        rules=several(rule, 16),
    )
    return Draft202012Validator(
        closed(
            ("apiVersion", "kind", "metadata", "spec"),
            apiVersion={"const": "gateway.networking.k8s.io/v1"},
            kind={"const": kind},
            metadata={"type": "object", "required": ["name"]},
            spec=spec,
        )
    )


KINDS = {
    "HTTPRoute": route("HTTPRoute", timeouts=closed((), request=DURATION, backendRequest=DURATION)),
    "GRPCRoute": route("GRPCRoute"),
}
