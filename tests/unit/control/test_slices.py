"""Slices find out whether drafting pays for all running requests together, and lose little time with trials."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from adasd.control.slices import CUT_ROUNDS, PLAIN, PROBING, SETTLING, Slices
from adasd.rounds import DraftBlock, RoundCompleted, Verdict

NUM_RUNNING = 4


@dataclass
class Process:
    """Requests whose plain rounds take 1 ms each on a shared machine, and whose blocks bring 4 tokens.

    Drafting makes ``gain`` times as many tokens per millisecond. ``speed`` is the machine's.
    """

    gain: float
    noise: float = 0.2
    speed: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def round(self, drafts: bool) -> RoundCompleted:
        num_accepted = self.rng.choice((2, 3, 4)) if drafts else 0
        tokens = 4 if drafts else 1
        ms = NUM_RUNNING * tokens / (self.gain if drafts else 1.0) / self.speed
        ms *= self.rng.uniform(1 - self.noise, 1 + self.noise)
        block = DraftBlock("s", 1, 0, (1,) * 5, (0.5,) * 5) if drafts else None
        return RoundCompleted(block, Verdict("s", 2, 0, num_accepted, 1), 0.0, ms)


def drive(slices: Slices, process: Process, num_rounds: int) -> tuple[Slices, int, float]:
    """Run rounds; returns tokens and the process's milliseconds as well."""
    tokens, ms = 0, 0.0
    for _ in range(num_rounds):
        done = process.round(slices.draft)
        tokens, ms = tokens + done.verdict.num_accepted + 1, ms + done.verify_ms / NUM_RUNNING
        slices = slices.learn(done, NUM_RUNNING)
    return slices, tokens, ms


@pytest.mark.parametrize("gain", [0.5, 0.8, 0.93, 1.07, 1.25, 2.0])
def test_the_faster_kind_is_on_and_trials_cost_little(gain):
    process = Process(gain)
    slices, _, _ = drive(Slices(), process, 4000)
    assert slices.usually_draft is (gain > 1)
    slices, tokens, ms = drive(slices, process, 15_000)
    assert slices.usually_draft is (gain > 1)
    assert tokens / ms >= (1 - 2 * PROBING) * max(1.0, gain)


def test_without_a_trial_nothing_is_known_and_after_one_the_plain_time_is():
    process = Process(1.5, noise=0.0)
    assert Slices().plain_ms(NUM_RUNNING) is None
    slices, _, _ = drive(Slices(), process, 2000)
    assert slices.plain_ms(NUM_RUNNING) == pytest.approx(NUM_RUNNING, rel=0.1)
    slices, _, _ = drive(slices, Process(0.5, noise=0.0), 40_000)
    assert not slices.usually_draft
    assert slices.plain_ms(NUM_RUNNING) == pytest.approx(NUM_RUNNING, rel=0.1)


def test_a_trial_that_clearly_loses_ends_early_and_is_not_repeated_soon():
    process, slices = Process(0.4, noise=0.0), PLAIN
    drafting = []
    for _ in range(30_000):
        drafting.append(slices.draft)
        slices = slices.learn(process.round(slices.draft), NUM_RUNNING)
    first = drafting.index(True)
    trial = drafting.index(False, first) - first
    assert trial == (SETTLING + CUT_ROUNDS) * NUM_RUNNING
    waited = drafting.index(True, first + trial) - first - trial
    assert waited > 8 * first


def test_a_machine_that_slows_down_meanwhile_does_not_decide():
    process = Process(1.1, noise=0.05)
    slices = Slices()
    for _ in range(200):
        slices, _, _ = drive(slices, process, 100)
        process.speed *= 0.98  # by half in 35 steps
        assert slices.usually_draft


def test_it_follows_a_change():
    slices, _, _ = drive(Slices(), Process(2.0), 10_000)
    slices, _, _ = drive(slices, Process(0.8), 25_000)
    assert not slices.usually_draft
    slices, _, _ = drive(slices, Process(2.0), 60_000)
    assert slices.usually_draft


def test_a_draw_changes_seldom():
    process, slices, changes = Process(1.0), Slices(), 0
    for _ in range(40):
        before = slices.usually_draft
        slices, _, _ = drive(slices, process, 1000)
        changes += slices.usually_draft is not before
    assert changes <= 4
