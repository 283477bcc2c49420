"""What clients notice when a draft dies, a client leaves, a port is taken or the operator stops the server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from load_tests.faults.local_cluster import values
from tests.e2e.conftest import NUM_SLOTS
from tests.e2e.server import ROOT, Server, ask, body, events, running, token_ids, wait_for

pytestmark = pytest.mark.cluster

LONG = 1950


def drafted(answer: dict) -> int:
    return (answer["metrics"]["speculative_decoding"] or {}).get("num_draft_tokens", 0)


def is_drafted(client: httpx.Client) -> bool:
    return drafted(ask(client, max_tokens=16, ignore_eos=True)) > 0


@pytest.mark.timeout(120)
def test_clients_that_leave_free_their_slots(server: Server, client: httpx.Client):
    """Streams that hold every slot of both tiers are cut; as many new answers then start at once."""
    with ExitStack() as streams:
        for _ in range(NUM_SLOTS):
            opened = streams.enter_context(server.client())
            asked = body(max_tokens=LONG, ignore_eos=True, stream=True)
            response = streams.enter_context(opened.stream("POST", "/v1/chat/completions", json=asked))
            next(events(response))
    left_s = time.monotonic()
    with ThreadPoolExecutor(NUM_SLOTS) as pool:
        answers = list(pool.map(lambda _: ask(client, max_tokens=2, ignore_eos=True), range(NUM_SLOTS)))
    assert len(answers) == NUM_SLOTS
    assert (
        time.monotonic() - left_s < 5.0
    )  # a second on a quiet machine; running the streams to their ends takes longer
    wait_for(lambda: is_drafted(client), 60.0)


def test_a_half_closed_connection_gets_its_answer(server: Server):
    """``printf ... | nc``: the client sends no more, but listens."""
    asked = json.dumps(body(max_tokens=4)).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60.0) as connection:
        connection.sendall(f"{head}content-length: {len(asked)}\r\n\r\n".encode() + asked)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"HTTP/1.1 200 OK" in answer
    assert answer.endswith(b"}")


@pytest.mark.timeout(300)
def test_a_draft_killed_in_the_middle_of_an_answer_changes_nothing(server: Server, client: httpx.Client):
    """The text is that of plain decoding, also with a seed; the draft comes back by itself."""
    for sampling in ({"temperature": 0}, {"temperature": 1.0, "seed": 7}):
        alone = token_ids(
            ask(client, max_tokens=LONG, ignore_eos=True, speculation={"mode": "off"}, **sampling)
        )
        for _ in range(5):  # on a busy machine an answer may end before its draft does
            wait_for(lambda: is_drafted(client), 60.0)
            (draft_pid,) = server.replicas("draft")
            tokens, report = killing(draft_pid, client, sampling)
            assert tokens == alone
            if report["metrics"]["adasd"]["draft_lost"]:
                break
        assert report["metrics"]["adasd"]["draft_lost"] >= 1
    wait_for(lambda: is_drafted(client), 60.0)


@pytest.mark.timeout(300)
def test_the_service_says_within_seconds_that_every_draft_is_gone(server: Server, client: httpx.Client):
    def is_degraded() -> bool:
        ready = client.get("/ready")
        assert ready.status_code == 200  # the target still serves
        return bool(ready.json()["degraded"])

    wait_for(lambda: not is_degraded(), 60.0)
    (draft_pid,) = server.replicas("draft")
    os.kill(draft_pid, signal.SIGSTOP)
    try:
        assert wait_for(is_degraded, 30.0) < 8.0  # 5 s on a machine that is not busy
        assert drafted(ask(client, max_tokens=16)) == 0
    finally:
        os.kill(draft_pid, signal.SIGKILL)
    wait_for(lambda: not is_degraded(), 120.0)
    wait_for(lambda: is_drafted(client), 60.0)


def killing(draft_pid: int, client: httpx.Client, sampling: dict) -> tuple[list[int], dict]:
    """Tokens and last chunk of a stream whose draft is killed once a drafted token has arrived."""
    asked = body(max_tokens=LONG, ignore_eos=True, stream=True, speculation={"mode": "exact"}, **sampling)
    tokens, is_killed, report = [], False, {}
    with client.stream("POST", "/v1/chat/completions", json=asked) as response:
        for chunk in events(response):
            if not chunk["choices"]:
                report = chunk
                continue
            new = chunk["choices"][0]["adasd"]["tokens"]
            tokens += [token["id"] for token in new]
            if not is_killed and any(token["kind"] == "exact" for token in new):
                os.kill(draft_pid, signal.SIGKILL)
                is_killed = True
    assert is_killed
    return tokens, report


def held(client: httpx.Client) -> dict[str, float]:
    """What the workers hold, by the metrics."""
    text = client.get("/metrics").text
    return {name: sum(values(text, f"adasd_worker_{name}")) for name in ("leases", "sessions", "streams")}


@pytest.mark.timeout(180)
def test_an_orchestrator_that_dies_frees_its_slots_and_the_next_one_serves(
    server: Server, client: httpx.Client
):
    """Its streams end with an error, since no other replica knows them; nothing of them stays on the workers."""
    (pid,) = server.replicas("orchestrator")
    with ExitStack() as streams:
        chunks = []
        for _ in range(NUM_SLOTS):
            opened = streams.enter_context(server.client())
            asked = body(max_tokens=LONG, ignore_eos=True, stream=True)
            response = streams.enter_context(opened.stream("POST", "/v1/chat/completions", json=asked))
            chunks.append(events(response))
            next(chunks[-1])
        wait_for(lambda: held(client)["sessions"] >= NUM_SLOTS, 60.0)  # metrics lag by a second
        os.kill(pid, signal.SIGKILL)
        for stream in chunks:
            *_, last = stream
            assert "send the request again" in last["error"]["message"]

    def is_free() -> bool:
        try:
            return not any(held(client).values())
        except httpx.HTTPError:  # not listening yet
            return False

    wait_for(is_free, 60.0)
    assert server.replicas("orchestrator") != [pid]
    with ThreadPoolExecutor(NUM_SLOTS) as pool:
        answers = list(pool.map(lambda _: ask(client, max_tokens=2, ignore_eos=True), range(NUM_SLOTS)))
    assert len(answers) == NUM_SLOTS


@pytest.mark.timeout(240)
def test_a_target_alone_serves_and_ctrl_c_leaves_no_process(pair: tuple[Path, Path]):
    with running("--target", str(pair[0]), "--draft", "none", "--mode", "off") as server:
        with server.client() as client:
            assert client.get("/ready").status_code == 200
            assert drafted(ask(client)) == 0
            looked_up = client.post("/v1/chat/completions", json=body(speculation={"mode": "exact"}))
            assert looked_up.json()["speculation"]["draft"] == "suffix"
            refused = client.post("/v1/chat/completions", json=body(speculation={"draft": "model"}))
            assert refused.status_code == 400
        assert len(server.processes()) > 3
        assert server.stop(signal.SIGINT) == 0
        wait_for(lambda: not server.processes(), 30.0)
        assert "Stopped." in server.output
        assert [path.name for path in server.folder.iterdir()] == ["output.txt"]


def test_a_server_that_cannot_start_says_why(server: Server, pair: tuple[Path, Path]):
    def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cluster.cli", "serve", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    target = str(pair[0])
    taken = serve("--target", target, "--port", str(server.port), "--grpc-port", "0")
    assert taken.returncode == 1
    assert f"cannot listen on 127.0.0.1:{server.port}" in taken.stderr
    missing = serve("--target", "/no/such/model")
    assert missing.returncode == 2
    assert "there is no model folder /no/such/model" in missing.stderr
