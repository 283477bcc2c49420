"""Mutual TLS between orchestrators and workers: both ends show a certificate of the same authority.
The public gRPC server shows one too, but requires none from clients.

Files are read again for every handshake of a server and every new channel, so renewed certificates need no
restart. Workers' addresses are not known when certificates are issued, so the check is for one name that all
workers' certificates share.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc

from adasd.errors import ConfigError
from services.config import DoorTlsConfig, TlsConfig


def server_credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    """For a worker; refuses clients without a certificate of the authority. ConfigError if a file cannot be read."""
    return grpc.dynamic_ssl_server_credentials(
        _server_files(tls),
        lambda: _unless_away(lambda: _server_files(tls)),
        require_client_authentication=True,
    )


def door_credentials(tls: DoorTlsConfig) -> grpc.ServerCredentials:
    """For the public gRPC server; clients need no certificate. ConfigError if a file cannot be read."""
    return grpc.dynamic_ssl_server_credentials(
        _door_files(tls), lambda: _unless_away(lambda: _door_files(tls)), require_client_authentication=False
    )


def client_credentials(tls: TlsConfig) -> grpc.ChannelCredentials:
    """For an orchestrator. ConfigError if a file cannot be read."""
    return grpc.ssl_channel_credentials(_read("ca", tls.ca), _read("key", tls.key), _chain(tls))


def client_options(tls: TlsConfig) -> tuple[tuple[str, str], ...]:
    """Channel options besides the credentials: the name required in the worker's certificate."""
    return (("grpc.ssl_target_name_override", tls.name),)


def _server_files(tls: TlsConfig) -> grpc.ServerCertificateConfiguration:
    pair = (_read("key", tls.key), _chain(tls))
    return grpc.ssl_server_certificate_configuration([pair], _read("ca", tls.ca))


def _door_files(tls: DoorTlsConfig) -> grpc.ServerCertificateConfiguration:
    pair = (_read("key", tls.key, "tls"), _read("certificate", tls.certificate, "tls"))
    return grpc.ssl_server_certificate_configuration([pair])


def _unless_away(
    read: Callable[[], grpc.ServerCertificateConfiguration],
) -> grpc.ServerCertificateConfiguration | None:
    """None keeps the previous files: one may be missing for a moment while it is replaced."""
    try:
        return read()
    except ConfigError:
        return None


def _chain(tls: TlsConfig) -> bytes:
    return _read("certificate", tls.certificate)


def _read(name: str, file: str | None, owner: str = "worker_tls") -> bytes:
    try:
        return Path(file or "").expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"{owner}.{name}: cannot read {file} ({error.strerror})") from error
