"""Where spans go (our settings, then OpenTelemetry's variables), and which trace a request belongs to."""

from __future__ import annotations

import pytest

from adasd.errors import ConfigError
from services import otel_environment
from services.config import TracesConfig
from services.otel_environment import completed
from services.settings import load
from services.trace_context import from_headers

TRACES, ALL = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("environment", "endpoint"),
    [
        ({}, None),
        ({ALL: "http://c:4318"}, "http://c:4318/v1/traces"),
        ({ALL: "http://c:4318/"}, "http://c:4318/v1/traces"),
        ({ALL: "http://c:4318", TRACES: "http://t/x"}, "http://t/x"),
        ({ALL: "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({ALL: "http://c:4318", "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_the_standard_variables_say_where(environment: dict, endpoint: str | None):
    assert completed(TracesConfig(), environment).endpoint == endpoint


def test_a_setting_goes_before_a_variable():
    environment = {
        TRACES: "http://theirs",
        "OTEL_SERVICE_NAME": "theirs",
        "OTEL_EXPORTER_OTLP_HEADERS": "K=a%20b,x",
    }
    found = completed(TracesConfig("http://ours", service_name="ours"), environment)
    assert (found.endpoint, found.service_name) == ("http://ours", "ours")
    assert found.headers == (("k", "a b"),)
    assert "a b" not in repr(found), "headers hold credentials"
    assert completed(TracesConfig(), environment).service_name == "theirs"


def test_settings_at_the_door_hold_the_outcome():
    config = load({"target.model": "big"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"})
    assert config.traces.endpoint == "http://c:4318/v1/traces"
    assert not load({"target.model": "big"}, {}).traces.is_on


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({ALL: "collector:4317"}, "must begin with http"),
        ({ALL: "http://collector:99999"}, "with a port up to 65535"),
        ({ALL: "http://:4318"}, "HOST:PORT/PATH"),
        ({ALL: "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf"),
    ],
)
def test_what_cannot_be_done_is_refused(environment: dict, says: str):
    with pytest.raises(ConfigError, match=says):
        completed(TracesConfig(), environment)


def test_a_missing_exporter_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch):
    for absent in ("no_such_package.exporter", "opentelemetry.no_such_exporter"):
        monkeypatch.setattr(otel_environment, "EXPORTER", absent)
        with pytest.raises(ConfigError, match=r"pip install 'adasd-serve\[traces\]'"):
            completed(TracesConfig("http://c"), {})
        assert completed(TracesConfig(), {}) == TracesConfig()


def test_a_trace_context_is_taken_as_it_is_or_not_at_all():
    headers = [("accept", "x"), ("traceparent", PARENT), ("tracestate", "a=1")]
    incoming = from_headers(headers, "chat")
    assert incoming.carrier == {"traceparent": PARENT, "tracestate": "a=1"}
    for wrong in ("", "00-zz-zz-01", PARENT.upper(), PARENT + "\r\nx: y", PARENT * 100):
        assert from_headers([("traceparent", wrong), ("tracestate", "a=1")], "chat").carrier == {}
    assert from_headers([("traceparent", PARENT.encode())], "chat").carrier == {}
