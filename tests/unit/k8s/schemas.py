"""Strict validation without a cluster: KubeRay's kind against its CRD, core kinds against Kubernetes' own schemas."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

from tests.unit.k8s.gateway_api import KINDS

KUBERNETES = "1.33"
CRD = Path(__file__).resolve().parents[2] / "data" / "kuberay" / "ray.io_rayservices.v1.7.0.yaml"


def complaints(document: dict[str, Any]) -> list[str]:
    """The errors of the API server, unknown fields included."""
    if document["apiVersion"] == "ray.io/v1":
        errors = ray_service().iter_errors(document)
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in errors]
    if document["apiVersion"].startswith("gateway.networking.k8s.io/"):
        errors = KINDS[document["kind"]].iter_errors(document)
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in errors]
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message[:200]}"]
    return []


@cache
def ray_service() -> Draft202012Validator:
    """A validator for RayService ray.io/v1."""
    definition = yaml.load(CRD.read_text(), Loader=yaml.CSafeLoader)
    version = next(v for v in definition["spec"]["versions"] if v["name"] == "v1")
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(schema)


def strict(schema: Any) -> Any:
    """OpenAPI's schema as JSON schema: fields that are not listed are refused."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: strict(value) for key, value in schema.items() if key not in ("format", "default")}
    properties = schema.get("properties")
    if isinstance(properties, dict) and "type" in schema:
        out.setdefault("additionalProperties", False)
        filled = {name for name, inner in properties.items() if "default" in inner}  # by the API server
        if isinstance(schema.get("required"), list):
            out["required"] = [name for name in schema["required"] if name not in filled]
    if schema.get("x-kubernetes-int-or-string"):
        out.pop("anyOf", None)
        out["type"] = ["integer", "string"]
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        out.pop("additionalProperties", None)
    return out
