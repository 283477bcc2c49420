"""Connects to workers."""

from __future__ import annotations

import grpc

from services.config import TlsConfig
from services.transport.options import CLIENT_OPTIONS
from services.transport.tls import client_credentials, client_options


def connect(address: str, tls: TlsConfig | None = None) -> grpc.aio.Channel:
    """A channel to ``host:port``. With ``tls``, both ends must show a certificate."""
    if tls is None or not tls.is_on:
        return grpc.aio.insecure_channel(address, list(CLIENT_OPTIONS))
    return grpc.aio.secure_channel(address, client_credentials(tls), [*CLIENT_OPTIONS, *client_options(tls)])
