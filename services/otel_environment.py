"""Reads OpenTelemetry's standard environment variables at start. Our own settings take precedence.

Replicas get the result and read no environment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from urllib.parse import unquote, urlsplit

from adasd.errors import ConfigError
from services.config import TracesConfig

EXPORTER = "opentelemetry.exporter.otlp.proto.http"
DEFAULT_NAME = TracesConfig().service_name


def completed(config: TracesConfig, environment: Mapping[str, str]) -> TracesConfig:
    """The settings, completed from the environment. ConfigError for values that are not supported.

    Known: OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT, ..._HEADERS, ..._PROTOCOL,
    OTEL_SERVICE_NAME, OTEL_TRACES_EXPORTER, OTEL_SDK_DISABLED.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return replace(config, endpoint=None)
    endpoint = config.endpoint or _endpoint(environment)
    if endpoint is None:
        return config
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"traces.endpoint is {endpoint!r}; it must begin with http:// or https://")
    if not _names_a_host(endpoint):
        raise ConfigError(
            f"traces.endpoint is {endpoint!r}; expected http(s)://HOST:PORT/PATH, with a port up to 65535"
        )
    protocol = _of_traces("PROTOCOL", environment)
    if protocol not in (None, "http/protobuf"):
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; only http/protobuf is supported")
    if not _is_installed(EXPORTER):
        raise ConfigError(
            f"traces to {endpoint} need OpenTelemetry's exporter; install it with: pip install 'adasd-serve[traces]'"
        )
    name = environment.get("OTEL_SERVICE_NAME") if config.service_name == DEFAULT_NAME else None
    headers = tuple(_headers(_of_traces("HEADERS", environment) or ""))
    return replace(config, endpoint=endpoint, service_name=name or config.service_name, headers=headers)


def _names_a_host(endpoint: str) -> bool:
    try:
        address = urlsplit(endpoint)
        return address.hostname is not None and address.port != 0
    except ValueError:  # of a port that is no number, or above 65535
        return False


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def _endpoint(environment: Mapping[str, str]) -> str | None:
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return None
    if traces := environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return traces
    base = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return f"{base.rstrip('/')}/v1/traces" if base else None


def _of_traces(name: str, environment: Mapping[str, str]) -> str | None:
    """The variable for traces, else the one for all signals."""
    specific = environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}")
    return specific or environment.get(f"OTEL_EXPORTER_OTLP_{name}") or None


def _headers(text: str) -> Iterator[tuple[str, str]]:
    for part in text.split(","):
        name, sign, value = part.partition("=")
        if sign:
            yield name.strip().lower(), unquote(value.strip())
