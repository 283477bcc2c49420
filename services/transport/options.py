"""gRPC options that both ends share: a silent peer is given up after 8 s at most on a link, 20 s at the public door."""

from __future__ import annotations

import json

RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.25s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}
"""For clients of the public interface, whose server may be replaced. Only calls that no server has accepted are
retried: an accepted call has answered with initial metadata, after which gRPC never retries. CANCELLED is the status
that gRPC's core gives a call that reaches a server just beginning to stop (grpc/grpc#41785).
"""


def retrying(service: str) -> tuple[tuple[str, str], ...]:
    """Channel options that apply RETRY_POLICY to calls of ``service``."""
    method_config = {"name": [{"service": service}], "retryPolicy": RETRY_POLICY}
    return (("grpc.service_config", json.dumps({"methodConfig": [method_config]})),)


LINK_METHOD = "/adasd.v1.Worker/Link"
FORMER_METHOD = "/adasd.v1.Worker/Rounds"
"""One stream per session; what orchestrators before LINK_FORM call."""
LINK_FORM = 2
"""What a lease's grant calls the form of this replica's protocol. Nothing: the former one."""

MAX_MESSAGE_BYTES = 32 * 1024 * 1024  # a long prompt is some KiB, full-vocabulary distributions are some MiB
MAX_FRAME_BYTES = 1024 * 1024  # a frame is full once it is this long
MAX_PART_BYTES = (
    MAX_MESSAGE_BYTES - 2 * MAX_FRAME_BYTES
)  # of one ask or reply, so that a frame fits a message

MIN_PING_INTERVAL_MS = 3000
"""A connection whose client pings more often than this, with nothing in between, is closed at the third such ping."""


def keepalive(time_ms: int, timeout_ms: int) -> tuple[tuple[str, int], ...]:
    """Options of either end: ping after ``time_ms`` of silence, and give the peer up ``timeout_ms`` after that.

    gRPC's core does not enforce its keepalive timeout (grpc/grpc#39239), only that of pings: 60 s unless it is set.
    That holds for all its pings, also those between data, so a peer may be given up after ``timeout_ms`` already.
    """
    return (
        ("grpc.keepalive_time_ms", time_ms),
        ("grpc.keepalive_timeout_ms", timeout_ms),
        ("grpc.http2.ping_timeout_ms", timeout_ms),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
    )


KEEPALIVE = keepalive(4000, 4000)
PUBLIC_KEEPALIVE = keepalive(10_000, 10_000)
"""Between networks a packet may take longer."""

CLIENT_OPTIONS: tuple[tuple[str, int], ...] = (
    *KEEPALIVE,
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *CLIENT_OPTIONS,
    ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
    ("grpc.so_reuseport", 0),  # two servers on one port are a mistake, not load balancing
)
