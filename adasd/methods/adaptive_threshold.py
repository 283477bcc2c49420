"""AdaEDL's slow update of a stop bound from the acceptance rate; shared by the two rules that use it."""

from __future__ import annotations

from dataclasses import dataclass, field

from adasd.rounds import RoundCompleted


@dataclass(frozen=True, slots=True)
class DriftOptions:
    """Constants of AdaEDL (arXiv:2410.18351, section 3.1); the start is not published, 0.4 is ours."""

    initial_bound: float = 0.4  # lambda
    acceptance_decay: float = 0.5  # beta 1
    bound_decay: float = 0.9  # beta 2
    step: float = 0.01  # epsilon
    wanted_acceptance: float = 0.9  # A


@dataclass(frozen=True, slots=True)
class DriftState:
    """Bound lambda in [0, 1], the running acceptance rate (None before the first round)."""

    bound: float
    acceptance: float | None = None
    longest: int = 0  # tokens; the longest block so far stands for the paper's maximum length L


@dataclass(frozen=True, slots=True)
class Drift:
    """Raises lambda (shorter blocks) while too little is accepted, else lowers it unless L were accepted."""

    options: DriftOptions = field(default_factory=DriftOptions)

    def start(self, shared: DriftState | None) -> DriftState:
        """Requests go on where the process is, since lambda moves by 0.001 per round at most."""
        return shared or DriftState(self.options.initial_bound)

    def learn(self, state: DriftState, round: RoundCompleted) -> DriftState:
        if not round.num_drafted:
            return state
        num_accepted = round.verdict.num_accepted
        longest = max(state.longest, round.num_drafted)
        acceptance = self._mean(state.acceptance, num_accepted / round.num_drafted)
        wanted = state.bound
        if acceptance < self.options.wanted_acceptance:
            wanted += self.options.step
        elif num_accepted != longest:
            wanted -= self.options.step
        bound = state.bound + (1 - self.options.bound_decay) * (wanted - state.bound)
        return DriftState(min(1.0, max(0.0, bound)), acceptance, longest)

    def _mean(self, old: float | None, new: float) -> float:
        decay = self.options.acceptance_decay
        return new if old is None else decay * old + (1 - decay) * new
