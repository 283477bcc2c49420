"""A locked service from outside: API keys and limits over HTTP and gRPC, mutual TLS and leases on the worker ports.

There are two orchestrator replicas, which share the limits of a key.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import yaml

from adasd.errors import AdasdError, RateLimited, StaleIncarnation, Unauthenticated, WorkerLost
from adasd.rounds import OpenCall, SamplingTransform
from services.config import TlsConfig
from services.transport.generation import GenerationClient
from services.transport.generation_messages import GenerateCall
from services.transport.link import WorkerAddress
from services.transport.link_pool import LinkPool
from services.transport.rounds_client import RoundsLine
from tests.e2e.server import Server, body, running
from tests.unit.transport.certificates import Authority

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

CHAT = "/v1/chat/completions"
KEYS = {"alice": "sk-alice-0123456789", "bob": {"key": "sk-bob-0123456789", "requests_per_minute": 2}}


@dataclass
class Locked:
    server: Server
    certificate: TlsConfig


@pytest.fixture(scope="module")
def locked(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "keys.yaml").write_text(yaml.safe_dump(KEYS))
    issued = Authority(folder).issue("worker")
    tls = [
        "--worker-tls-certificate",
        issued.certificate,
        "--worker-tls-key",
        issued.key,
        "--worker-tls-ca",
        issued.ca,
    ]
    models = ["--target", str(pair[0]), "--draft", str(pair[1]), "--model-name", "pair"]
    keys = ["--api-keys-file", str(folder / "keys.yaml")]
    with running(*models, *tls, *keys, "--orchestrator-replicas", "2") as server:
        yield Locked(server, issued)


def post(locked: Locked, authorization: str | None) -> httpx.Response:
    headers = {"Authorization": authorization} if authorization else {}
    with locked.server.client(headers=headers) as client:
        return client.post(CHAT, json=body(max_tokens=2))


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Bearer",
        "Bearer sk-alice",
        "Bearer sk-alice-01234567890",
        "Basic sk-alice-0123456789",
        "Bearer alice",
    ],
)
def test_no_key_or_a_wrong_one_gets_nothing(locked: Locked, authorization: str | None):
    refused = post(locked, authorization)
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert "sk-" not in refused.text


def test_every_route_but_health_asks_for_a_key(locked: Locked):
    with locked.server.client() as client:
        paths = client.get("/openapi.json", headers={"Authorization": "Bearer sk-alice-0123456789"}).json()[
            "paths"
        ]
        open_paths = {
            path
            for path, operations in paths.items()
            for method in operations
            if client.request(method, path.replace("{name}", "x"), json={}).status_code != 401
        }
        assert open_paths == {"/health", "/ready"}
        assert client.get("/metrics").status_code == client.get("/openapi.json").status_code == 401


def test_a_key_serves_its_owner_until_its_limit(locked: Locked):
    assert post(locked, "Bearer sk-alice-0123456789").status_code == 200
    bobs = [post(locked, "Bearer sk-bob-0123456789") for _ in range(3)]
    assert [answer.status_code for answer in bobs] == [200, 200, 429]
    assert 1 <= int(bobs[2].headers["Retry-After"]) <= 60
    assert post(locked, "Bearer sk-alice-0123456789").status_code == 200


def test_the_grpc_door_asks_for_the_same_keys(locked: Locked):
    async def ask(api_key: str | None) -> int:
        client = GenerationClient(f"127.0.0.1:{locked.server.grpc_port}", api_key)
        try:
            return len([event async for event in client.generate(GenerateCall((1, 2, 3)))])
        finally:
            await client.close()

    for wrong in (None, "sk-alice"):
        with pytest.raises(Unauthenticated):
            asyncio.run(ask(wrong))
    assert asyncio.run(ask("sk-alice-0123456789")) > 0

    async def ask_thrice() -> None:
        for _ in range(3):
            await ask("sk-bob-0123456789")

    with pytest.raises(RateLimited):  # one budget for HTTP and gRPC
        asyncio.run(ask_thrice())


# --------------------------------------------------------------------------- the workers' own ports


def listening_ports(pid: int, addresses: set[str] | None = None) -> list[int]:
    """TCP ports on which a process listens, only at these addresses (as in /proc/net/tcp) if any are given."""
    inodes = {
        target.removeprefix("socket:[").removesuffix("]")
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if (target := _read_link(link)).startswith("socket:[")
    }
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    local = [row[1].split(":") for row in rows if row[3] == "0A" and row[9] in inodes]
    return sorted({int(port, 16) for address, port in local if addresses is None or address in addresses})


def _read_link(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def rounds_port(locked: Locked, role: str) -> int:
    """The worker's port for rounds: the one that speaks our mutual TLS."""
    (pid,) = locked.server.replicas(role)
    context = ssl.create_default_context(cafile=locked.certificate.ca)
    context.load_cert_chain(locked.certificate.certificate, locked.certificate.key)
    context.set_alpn_protocols(["h2"])
    return next(port for port in listening_ports(pid) if _shakes_hands(port, context))


def _shakes_hands(port: int, context: ssl.SSLContext) -> bool:
    import socket

    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="adasd-worker"),
        ):
            return True
    except OSError:
        return False


async def open_a_slot(port: int, tls: TlsConfig | None) -> AdasdError | None:
    """A worker's reply to a caller that speaks its protocol but holds no lease."""
    pool = LinkPool(tls=tls)
    line = RoundsLine(pool, WorkerAddress("target", f"127.0.0.1:{port}", "0" * 32), "stranger", 5.0)
    try:
        await line.open(OpenCall("stranger", SamplingTransform(), 8))
    except AdasdError as error:
        return error
    finally:
        await line.close()
        await pool.close()
    return None


@pytest.mark.parametrize("role", ["target", "draft"])
def test_a_worker_answers_nobody_without_a_certificate_and_a_lease(locked: Locked, role: str):
    port = rounds_port(locked, role)
    assert isinstance(asyncio.run(open_a_slot(port, None)), WorkerLost)  # no certificate: no connection
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.FutureTimeoutError):
        grpc.channel_ready_future(channel).result(timeout=2)
    refused = asyncio.run(
        open_a_slot(port, locked.certificate)
    )  # the deployment's own certificate, but not the lease's secret
    assert isinstance(refused, StaleIncarnation)
