"""A busy event loop gets gRPC's events all at once. Counted in turns of the loop, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

NUM_CALLS = 600  # a server refuses more than 1000 at once
SCRIPT = """
import asyncio, sys, time
from concurrent.futures import ThreadPoolExecutor
import grpc
from services.transport.poller import take_all_events

async def main(num_calls):
    echo = grpc.unary_unary_rpc_method_handler(lambda data, context: data)
    server = grpc.server(ThreadPoolExecutor(8), options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", {"Say": echo}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    turns = 0

    async def be_busy():
        nonlocal turns
        while True:
            turns += 1
            time.sleep(0.02)
            await asyncio.sleep(0)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        say = channel.unary_unary("/echo/Say")
        await say(b"first")
        busy = asyncio.create_task(be_busy())
        said = await asyncio.gather(*(say(b"%d" % number) for number in range(num_calls)))
        busy.cancel()
    assert said == [b"%d" % number for number in range(num_calls)]
    server.stop(0)
    print(turns)

if sys.argv[1] == "all":
    take_all_events()
    take_all_events()
asyncio.run(main(int(sys.argv[2])))
"""


def num_turns(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how, str(NUM_CALLS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_busy_loop_takes_many_answers_in_a_turn():
    assert num_turns("all") < NUM_CALLS / 4


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have room for other numbers of bytes")
def test_without_it_grpc_gives_one_answer_per_turn():
    """Once this fails, grpcio does it by itself, and poller.py can go."""
    assert num_turns("one by one") > NUM_CALLS / 2
