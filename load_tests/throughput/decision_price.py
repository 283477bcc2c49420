"""What deciding costs: processor time of ``calibrated`` per round and per drafted token, in one process.

    python -m load_tests.throughput.decision_price [--rounds 3000] [--block 6] [--json FILE]

Rounds of made-up entropies and verdicts. A round has one ``decide`` and one ``learn``; the forecasts that ``decide``
makes when there is enough new evidence are included. Every drafted token has one ``stops`` besides (on the host; the C
kernels do the same in a loop). The exit status is 1 if a decision, all included, takes 10 microseconds or more.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from adasd.methods.drafting.calibrated import Calibrated
from adasd.methods.policy import RoundOutlook
from adasd.ports import Clock
from adasd.rounds import DraftBlock, RoundCompleted, Verdict
from adasd.stop_rule import stops
from load_tests import record
from load_tests.demo_pair import positive

GOAL_US = 10.0
ENTROPIES = (0.005, 0.05, 0.3, 0.7, 1.8)
OUTLOOK = RoundOutlook(
    16, 100, draft_ms=0.1, hop_ms=0.2, verify_ms=1.0, verify_ms_per_token=0.04, plain_ms=1.0
)


@dataclass(frozen=True)
class Price:
    """Mean processor time, microseconds."""

    decide_us: float  # per round, forecasts included
    learn_us: float  # per round
    stop_us: float  # per drafted token
    block_len: int

    @property
    def per_decision_us(self) -> float:
        """Per drafted token, all included."""
        return self.stop_us + (self.decide_us + self.learn_us) / self.block_len


def measure(num_rounds: int, block_len: int, clock: Clock = time.thread_time) -> Price:
    """A process that learns from its first round on."""
    method, rng = Calibrated(), random.Random(0)
    state = method.start(None)
    decide_s = learn_s = stop_s = 0.0
    for _ in range(num_rounds):
        entropies = tuple(rng.choice(ENTROPIES) for _ in range(block_len))
        num_accepted = rng.randrange(block_len + 1)
        block = DraftBlock("s", 1, 0, (1,) * block_len, entropies)
        began_s = clock()
        rule = method.decide(state, OUTLOOK)
        decided_s = clock()
        for num in range(1, block_len + 1):
            stops(rule, entropies[:num], 0.9)
        stopped_s = clock()
        done = RoundCompleted(block, Verdict("s", 2, 0, num_accepted, 1), 0.6, 1.2, rule=rule)
        learning_s = clock()
        state = method.learn(state, done)
        ended_s = clock()
        decide_s, stop_s = decide_s + decided_s - began_s, stop_s + stopped_s - decided_s
        learn_s += ended_s - learning_s
    per_round = 1e6 / num_rounds
    return Price(decide_s * per_round, learn_s * per_round, stop_s * per_round / block_len, block_len)


def main(arguments: list[str] | None = None, clock: Clock = time.thread_time) -> int:
    """Measure, print, write; 1 if the goal is missed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.throughput.decision_price",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=positive, default=3000, help="rounds [3000]")
    parser.add_argument("--block", type=positive, default=6, help="drafted tokens per round [6]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    options = parser.parse_args(arguments)
    header = record.circumstances("throughput.decision_price", arguments)
    console = record.console()
    console.print(record.headline(header), highlight=False)
    found = measure(options.rounds, options.block, clock)
    shown = Table(title=f"calibrated, blocks of {found.block_len}, mean of {options.rounds} rounds, µs")
    for column in ("decide, per round", "learn, per round", "stop, per token", "per drafted token, all"):
        shown.add_column(column, justify="right")
    figures = (found.decide_us, found.learn_us, found.stop_us, found.per_decision_us)
    shown.add_row(*(f"{us:.1f}" for us in figures))
    console.print(shown)
    if options.json:
        record.write(options.json, header, asdict(found) | {"per_decision_us": found.per_decision_us})
    return int(found.per_decision_us >= GOAL_US)


if __name__ == "__main__":
    sys.exit(main())
