"""AdaEDL's slow update of a stop threshold from the acceptance rate (arXiv:2410.18351, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from adasd.rounds import RoundCompleted

INITIAL = 0.4
"""Lambda at the start: not published, and results depend on it, since a round moves it by at most 0.001."""
ACCEPTANCE_DECAY, THRESHOLD_DECAY = 0.5, 0.9
"""beta 1 and beta 2."""
STEP = 0.01
"""epsilon"""
WANTED_ACCEPTANCE = 0.9
"""A"""


@dataclass(frozen=True, slots=True)
class ThresholdState:
    """Threshold lambda in [0, 1] and the running acceptance rate (None before the first round)."""

    threshold: float
    acceptance: float | None = None
    longest: int = 0  # tokens of the longest block so far, used as the paper's maximum length L


def started(shared: ThresholdState | None, initial: float) -> ThresholdState:
    """A request continues from the process's state, since lambda moves so slowly."""
    return shared or ThresholdState(initial)


def learned(state: ThresholdState, round: RoundCompleted) -> ThresholdState:
    """Lambda rises (shorter blocks) if too little is accepted, else it falls unless L tokens were accepted."""
    if not round.num_drafted:
        return state
    num_accepted = round.verdict.num_accepted
    longest = max(state.longest, round.num_drafted)
    acceptance = num_accepted / round.num_drafted
    if state.acceptance is not None:
        acceptance = ACCEPTANCE_DECAY * state.acceptance + (1 - ACCEPTANCE_DECAY) * acceptance
    wanted = state.threshold
    if acceptance < WANTED_ACCEPTANCE:
        wanted += STEP
    elif num_accepted != longest:
        wanted -= STEP
    threshold = state.threshold + (1 - THRESHOLD_DECAY) * (wanted - state.threshold)
    return ThresholdState(min(1.0, max(0.0, threshold)), acceptance, longest)
