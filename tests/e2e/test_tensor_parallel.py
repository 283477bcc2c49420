"""The demo pair with its target on two ranks: the same text, a killed rank is a lost target, and nothing is left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.server import Server, ask, body, events, running, token_ids, wait_for

pytestmark = pytest.mark.cluster

LENGTH = 1000


@pytest.mark.timeout(300)
def test_a_target_on_two_ranks_answers_the_same_and_outlives_a_killed_rank(
    pair: tuple[Path, Path], client: httpx.Client
):
    alone = token_ids(ask(client, max_tokens=LENGTH, ignore_eos=True))
    models = ["--target", str(pair[0]), "--draft", str(pair[1]), "--speculation-bypass", "false"]
    few = ["--target-num-slots", "2", "--draft-num-slots", "2", "--target-tensor-parallel", "2"]
    with running(*models, *few) as server:
        with server.client() as two_ranks:
            asked = body(max_tokens=LENGTH, ignore_eos=True, stream=True, speculation={"mode": "exact"})
            tokens, report, killed_s = [], {}, 0.0
            with two_ranks.stream("POST", "/v1/chat/completions", json=asked) as response:
                for chunk in events(response):
                    if not chunk["choices"]:
                        report = chunk
                        continue
                    tokens += [token["id"] for token in chunk["choices"][0]["adasd"]["tokens"]]
                    if not killed_s and len(tokens) > 20:
                        os.kill(other_rank(server), signal.SIGKILL)
                        killed_s = time.monotonic()
            assert tokens == alone
            assert report["metrics"]["speculative_decoding"]["num_accepted_draft_tokens"] > 0
            assert time.monotonic() - killed_s < 120.0
        assert server.stop(signal.SIGINT) == 0
        wait_for(lambda: not server.processes(), 30.0)
        assert list(server.folder.glob("adasd-*")) == []


def other_rank(server: Server) -> int:
    """The process id of rank 1."""
    (pid,) = [pid for pid, command in server.processes().items() if "Rank.follow" in command]
    return pid
