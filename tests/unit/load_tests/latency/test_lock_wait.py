"""The wait for the interpreter lock: told apart from processor time and from the wait for a core."""

import threading
from contextlib import contextmanager
from multiprocessing import Pipe

import pytest

from adasd.rounds import OpenCall, SamplingTransform, VerifyCall
from load_tests.latency import lock_wait
from load_tests.latency.lock_wait import STEPS_PER_REPORT, LaunchingEngine, StepTimes


@contextmanager
def rival():
    """A thread that holds the lock whenever it can."""
    over = threading.Event()

    def spin():
        while not over.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def steps_of(num_operations):
    ours, theirs = Pipe(duplex=False)
    engine = LaunchingEngine(1, num_operations, 5.0, theirs)
    engine.open(OpenCall("s", SamplingTransform(), 64))
    for epoch in range(STEPS_PER_REPORT):
        engine.submit(VerifyCall("s", epoch, 0, (1,)))
        engine.step()
    return ours.recv()


def test_a_thread_that_holds_the_lock_is_seen_as_the_wait_for_it():
    alone = steps_of(20)
    with rival():
        beside = steps_of(20)
    assert (alone.num_steps, alone.num_calls) == (STEPS_PER_REPORT, STEPS_PER_REPORT)
    assert alone.lock_share < 0.1
    assert beside.lock_share > 0.25  # 5 of about 9 ms


def test_times_add_up():
    times = StepTimes(1, 2, 10.0, 3.0, 4.0).plus(StepTimes(1, 1, 10.0, 3.0, 4.0))
    assert times == StepTimes(2, 3, 20.0, 6.0, 8.0)
    assert times.lock_wait_s == 6.0
    assert times.lock_share == 0.5


def test_the_whole_benchmark_sees_both_sides_of_a_round():
    times, round_ms = lock_wait.run(2, 10, 5.0, 1.5)
    assert round_ms > 0
    assert times.num_steps > 0
    assert times.num_calls >= times.num_steps


@pytest.mark.parametrize(
    "words", [["--sessions", "0"], ["--seconds", "0"], ["--operations", "0"], ["--switch-ms", "0"]]
)
def test_what_cannot_be_measured_is_refused(words, capsys):
    with pytest.raises(SystemExit) as left:
        lock_wait.main(words)
    assert left.value.code == 2
    assert "above 0" in capsys.readouterr().err
