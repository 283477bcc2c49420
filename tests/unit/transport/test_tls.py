"""Worker links under mutual TLS: who may call whom, and that renewed certificates need no restart."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from adasd.errors import ConfigError, WorkerLost
from services import settings
from services.config import DoorTlsConfig, TlsConfig
from services.gateway.grpc.door import start_grpc
from services.transport.channels import connect
from services.transport.generation import GenerationClient
from services.transport.link_pool import LinkPool
from services.transport.options import RETRY_POLICY
from services.transport.server import start_server
from tests.unit.gateway.fake_backend import FakeBackend
from tests.unit.transport.certificates import Authority

METHOD = "/test.Echo/Say"


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
async def worker(authority):
    async def say(request, _):
        return request

    handler = grpc.method_handlers_generic_handler(
        "test.Echo", {"Say": grpc.unary_unary_rpc_method_handler(say)}
    )
    running = await start_server([handler], "127.0.0.1", tls=authority.issue("worker"))
    yield running.address
    await running.stop()


async def ask(address, tls):
    """The worker's reply, or the status of the refusal."""
    async with connect(address, tls) as channel:
        try:
            return await channel.unary_unary(METHOD)(b"hello", timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code()


async def test_two_of_the_same_authority_talk(authority, worker):
    assert await ask(worker, authority.issue("gateway", "gateway")) == b"hello"


async def test_who_shows_no_certificate_is_refused(worker):
    assert await ask(worker, None) is grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_of_another_authority_is_refused(authority, worker, tmp_path):
    stranger = replace(Authority(tmp_path, "other").issue("stranger"), ca=str(authority.file))
    assert await ask(worker, stranger) is grpc.StatusCode.UNAVAILABLE


async def test_a_worker_of_another_authority_is_not_believed(authority, worker, tmp_path):
    other = Authority(tmp_path, "other")
    assert (
        await ask(worker, replace(authority.issue("gateway"), ca=str(other.file)))
        is grpc.StatusCode.UNAVAILABLE
    )


async def test_a_worker_under_another_name_is_not_believed(authority, worker):
    assert await ask(worker, replace(authority.issue("gateway"), name="db")) is grpc.StatusCode.UNAVAILABLE


async def test_a_client_with_a_certificate_does_not_talk_to_a_server_without(authority):
    running = await start_server([], "127.0.0.1")
    try:
        assert await ask(running.address, authority.issue("gateway")) is grpc.StatusCode.UNAVAILABLE
    finally:
        await running.stop()


async def test_a_renewed_authority_needs_no_restart(authority, worker, tmp_path):
    renewed = Authority(tmp_path)  # the same files, another key
    gateway = renewed.issue("gateway")
    renewed.issue("worker")
    assert await ask(worker, gateway) == b"hello"


async def test_a_missing_file_is_named(authority):
    tls = replace(authority.issue("worker"), key="/none/tls.key")
    with pytest.raises(ConfigError, match=r"worker_tls\.key: cannot read /none/tls.key"):
        await start_server([], "127.0.0.1", tls=tls)
    with pytest.raises(ConfigError, match=r"worker_tls\.key"):
        LinkPool(tls=tls)


def test_half_a_configuration_is_refused():
    with pytest.raises(ConfigError, match="worker_tls has only certificate; set certificate, key and ca"):
        settings.load({"target.model": "a/b", "worker_tls.certificate": "x"}, {})
    assert not settings.load({"target.model": "a/b"}, {}).worker_tls.is_on
    assert TlsConfig("a", "b", "c").is_on


async def test_the_public_door_shows_its_certificate_and_asks_for_none(authority, monkeypatch):
    monkeypatch.setitem(RETRY_POLICY, "maxAttempts", 2)
    issued = authority.issue("door", "localhost")
    server = await start_grpc(
        FakeBackend(), "127.0.0.1", 0, 100_000, tls=DoorTlsConfig(issued.certificate, issued.key)
    )
    address = server.address.replace("127.0.0.1", "localhost")
    knowing = GenerationClient(address, ca=authority.file.read_bytes())
    plain = GenerationClient(address)
    try:
        assert (await knowing.server_info()).ready
        with pytest.raises(WorkerLost):
            await plain.server_info()
    finally:
        await knowing.close()
        await plain.close()
        await server.stop()


async def test_a_certificate_that_cannot_be_read_is_named():
    with pytest.raises(ConfigError, match=r"tls\.key: cannot read /absent\.key"):
        await start_grpc(
            FakeBackend(), "127.0.0.1", 0, 100_000, tls=DoorTlsConfig("/absent.crt", "/absent.key")
        )
