"""gRPC servers on one port that are replaced in turn under load: every request is answered."""

from __future__ import annotations

import asyncio
import socket

from adasd.requests import SamplingParams
from adasd.results import Complete
from services.gateway.grpc.door import start_grpc
from services.transport.generation import GenerationClient
from services.transport.generation_messages import GenerateCall
from tests.unit.gateway.fake_backend import FakeBackend

NUM_CLIENTS = 8
NUM_REPLACED = 15
CALL = GenerateCall("the cat sat on the mat", sampling=SamplingParams(max_tokens=8))


async def door(port: int):
    return await start_grpc(FakeBackend(step_s=0.005), "127.0.0.1", port, max_request_bytes=100_000)


async def replace_one_after_the_other(doors, port):
    """Two of them always take calls, as in a roll-out of two replicas."""
    stopping = []
    for _ in range(NUM_REPLACED):
        await asyncio.sleep(0.15)
        doors.append(await door(port))
        stopping.append(asyncio.create_task(doors.pop(0).stop(grace_s=20.0)))
    await asyncio.gather(*stopping)


async def test_doors_are_replaced_and_no_request_is_lost():
    doors = [await door(0)]
    port = int(doors[0].address.rsplit(":", 1)[1])
    doors.append(await door(port))
    replaced, answers = asyncio.Event(), []

    async def ask_and_ask_again():
        client = GenerationClient(f"127.0.0.1:{port}")
        try:
            while not replaced.is_set():
                answers.append([event async for event in client.generate(CALL)][-1])
        finally:
            await client.close()

    async with asyncio.timeout(50.0), asyncio.TaskGroup() as clients:
        for _ in range(NUM_CLIENTS):
            clients.create_task(ask_and_ask_again())
        await replace_one_after_the_other(doors, port)
        replaced.set()
    assert len(answers) > NUM_CLIENTS * 2
    assert all(isinstance(answer, Complete) for answer in answers)
    await asyncio.gather(*(one.stop() for one in doors))


async def test_a_door_has_many_listeners_and_closes_them_all():
    opened = await door(0)
    port = int(opened.address.rsplit(":", 1)[1])
    clients = [GenerationClient(opened.address) for _ in range(12)]
    answers = await asyncio.gather(*(anext(client.generate(CALL)) for client in clients))
    assert len(answers) == len(clients)
    assert len(opened._running.listeners) > 1
    await asyncio.gather(*(client.close() for client in clients))
    await opened.stop()
    with socket.socket() as alone:  # without SO_REUSEPORT it would fail beside any listener
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        alone.bind(("127.0.0.1", port))
        alone.listen()
