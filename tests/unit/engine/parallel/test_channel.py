"""Rank 0 and the others learn at once that the other side is gone, and nothing is left of their channel."""

import os
import queue
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from adasd.engine.parallel import follower
from adasd.engine.parallel.channel import FAILED, LOADED, START, Channel, connect, receive, send
from adasd.engine.parallel.follower import Inbox
from adasd.errors import ConfigError, RankLost


@pytest.fixture
def channel(tmp_path):
    """Rank 0's channel to two ranks, the ends of those, and the losses that were reported."""
    losses = queue.SimpleQueue()
    ours = Channel(tmp_path, 2, losses.put)
    theirs = [connect(tmp_path), connect(tmp_path)]
    ours.accept(lambda: None)
    yield ours, theirs, losses
    ours.close()
    for connection in theirs:
        connection.close()


def test_messages_arrive_whole_and_in_order(channel):
    ours, theirs, _ = channel
    messages = [b"", b"x", os.urandom(300_000), b"y"]
    with ThreadPoolExecutor(3) as pool:
        sent = pool.submit(lambda: [ours.send(message) for message in messages])
        read = [
            pool.submit(lambda connection=connection: [receive(connection) for _ in messages])
            for connection in theirs
        ]
        assert [each.result(20) for each in read] == [messages, messages]
        sent.result(20)


def test_all_start_when_all_have_loaded(channel):
    ours, theirs, _ = channel
    for connection in theirs:
        send(connection, LOADED)
    ours.start()
    assert [receive(connection) for connection in theirs] == [START, START]


def test_a_rank_that_fails_to_load_says_why(channel):
    ours, theirs, losses = channel
    send(theirs[0], LOADED)
    send(theirs[1], FAILED + b"rank 2 failed: no memory")
    with pytest.raises(ConfigError, match="rank 2 failed: no memory"):
        ours.start()
    assert losses.get(timeout=5) == "rank 2 failed: no memory"


def test_a_rank_that_ends_is_lost_at_once_and_once(channel):
    ours, theirs, losses = channel
    theirs[1].close()
    assert losses.get(timeout=5) == "a rank has ended by itself"
    with pytest.raises(RankLost, match="a rank has ended by itself"):
        ours.send(b"plan")
    with pytest.raises(RankLost):
        ours.check()
    theirs[0].close()
    assert losses.empty()


def test_a_rank_that_never_connects_is_noticed_by_its_check(tmp_path):
    ours = Channel(tmp_path, 1)

    def never() -> None:
        raise RuntimeError("the actor died")

    with pytest.raises(RuntimeError, match="the actor died"):
        ours.accept(never)
    ours.close()
    with pytest.raises(ConnectionRefusedError):
        connect(tmp_path)


def test_the_end_of_rank_0_is_no_loss(channel):
    ours, theirs, losses = channel
    ours.close()
    ours.close()
    assert [receive(connection) for connection in theirs] == [None, None]
    assert losses.empty()


def test_a_rank_reads_on_until_rank_0_is_gone():
    here, there = socket.socketpair()
    ended = queue.SimpleQueue()
    with here, there, Inbox(there, ended.put) as inbox:
        send(here, b"one")
        messages = iter(inbox)
        assert next(messages) == b"one"
        here.close()
        assert list(messages) == []
    assert ended.empty()


def test_a_rank_whose_pass_never_ends_ends_itself(monkeypatch):
    """A pass over NCCL waits for ever for a rank 0 that is gone."""
    monkeypatch.setattr(follower, "STUCK_S", 0.05)
    here, there = socket.socketpair()
    ended = queue.SimpleQueue()
    with there, Inbox(there, ended.put):
        here.close()
        assert ended.get(timeout=5) == 1
