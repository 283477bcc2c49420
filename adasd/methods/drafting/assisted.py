"""The length rule of transformers' assisted generation: two more after a full acceptance, else one less."""

from __future__ import annotations

from dataclasses import dataclass

from adasd.methods.policy import RoundOutlook
from adasd.rounds import RoundCompleted, StopRule


@dataclass(frozen=True, slots=True)
class Heuristic:
    """State: the next length in tokens. Every request begins at ``initial`` (``heuristic_transient``)."""

    initial: int = 5
    default_block: int | None = None
    name: str = "heuristic"
    summary: str = "length + 2 after a full acceptance, - 1 otherwise"
    source: str = "Hugging Face transformers, num_assistant_tokens_schedule='heuristic_transient'"

    def start(self, shared: int | None) -> int:
        return self.initial

    def decide(self, state: int, outlook: RoundOutlook) -> StopRule:
        return StopRule(min(state, outlook.max_draft_tokens))

    def learn(self, state: int, round: RoundCompleted) -> int:
        if not round.num_drafted:
            return state
        full = round.verdict.num_accepted == round.num_drafted
        # From what was drafted: under a cap the wish would otherwise grow without end and never come back.
        return round.num_drafted + 2 if full else max(1, round.num_drafted - 1)
