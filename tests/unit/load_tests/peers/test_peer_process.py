"""A peer's process: asked line by line, and gone afterwards on every path."""

import sys
from pathlib import Path

import pytest

from adasd.text.tokenizer import Tokenizer
from load_tests.demo_pair import DEMO
from load_tests.peers.peer_process import PeerFailed, PeerProcess

PYTHON = Path(sys.executable)


def process(arguments=(), **changes):
    return PeerProcess(PYTHON, "tests.unit.load_tests.peers.echo", arguments, 1, **changes)


def test_answers_come_back_with_their_times_and_the_process_ends():
    with process() as peer:
        answer = peer.ask([3, 4, 5], 2, "twice")
        assert answer.tokens == (3, 4, 3, 4)
        assert answer.seconds >= 0
        assert peer.ask([1], 9).tokens == (1,)
    assert peer._process.returncode == 0


def test_our_own_process_gives_the_same_tokens_in_both_modes():
    words = [str(DEMO / "target"), str(DEMO / "draft"), "1", "full"]
    prompt = Tokenizer.load(words[0]).apply_chat_template(
        [{"role": "user", "content": "A short story, please."}]
    )
    with PeerProcess(PYTHON, "load_tests.peers.workers.serve_ours", words, 1) as peer:
        answers = [peer.ask(prompt, 12, mode).tokens for mode in ("off", "exact")]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 12


@pytest.mark.parametrize(
    ("words", "says"), [(["dies at start"], "status 3: no such model"), (["dies"], "status 4: out of words")]
)
def test_a_process_that_ends_is_told_with_its_last_words(words, says):
    with pytest.raises(PeerFailed, match=says), process(words) as peer:
        peer.ask([1], 1)


def test_a_process_that_does_not_start_in_time_is_killed():
    with pytest.raises(PeerFailed, match="status -9"), process(["hangs"], start_s=0.3):
        pass
