"""Which answers meet the objective, and the goodput under it."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.simulation.objective import Objective
from load_tests.load.answers import Outcome, Reply


def meets(objective: Objective, answer: Reply) -> bool:
    """Whether an answer is good; its first token is timed from the moment when the request was due.

    Clients that disconnected are judged by what they received; expected refusals are good.
    """
    if answer.outcome is Outcome.REFUSED:
        return True
    if answer.outcome not in (Outcome.DONE, Outcome.LEFT):
        return False
    first_s, per_token_s = answer.first_token_s, answer.per_token_s
    if first_s is None or 1e3 * first_s > objective.first_token_ms:
        return False
    return per_token_s is None or 1e3 * per_token_s <= objective.per_token_ms


def attainment(objective: Objective, answers: Sequence[Reply]) -> float:
    """Share of good answers; 1 without answers."""
    return sum(meets(objective, answer) for answer in answers) / len(answers) if answers else 1.0


def is_held(objective: Objective, answers: Sequence[Reply]) -> bool:
    return attainment(objective, answers) >= objective.share
