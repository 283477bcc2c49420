"""How many of a draft's greedy proposals a greedy target accepts, in blocks of constant length.

Greedy speculative decoding emits exactly what the target alone emits. So the target's answer, and a block of the
draft wherever a round begins, are enough.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Continue = Callable[[list[list[int]], int], list[list[int]]]
"""(contexts, max_new_tokens) -> new ids for each context, which end early after an end-of-sequence token."""


@dataclass(frozen=True, slots=True)
class GreedyAgreement:
    """Counts over all rounds; position k of a block is at index k."""

    num_rounds: int
    drafted: tuple[int, ...]
    accepted: tuple[int, ...]

    @property
    def share(self) -> float:
        """Accepted tokens among drafted ones, in [0, 1]."""
        return sum(self.accepted) / max(1, sum(self.drafted))

    @property
    def tokens_per_round(self) -> float:
        """Tokens per pass of the target, including its own token."""
        return (sum(self.accepted) + self.num_rounds) / max(1, self.num_rounds)

    @property
    def by_position(self) -> tuple[float, ...]:
        """Accepted / drafted at each position of the block; tokens after a rejected one are rejected."""
        return tuple(a / max(1, d) for a, d in zip(self.accepted, self.drafted, strict=True))


def measure(
    draft: Continue, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], block_len: int = 5
) -> GreedyAgreement:
    """Go through the target's `answers` in rounds; a block ends early if the draft ends its answer."""
    drafted, accepted = [0] * block_len, [0] * block_len
    num_rounds = 0
    at = [0] * len(answers)
    while open_rows := [row for row, answer in enumerate(answers) if at[row] < len(answer)]:
        blocks = draft([[*prompts[row], *answers[row][: at[row]]] for row in open_rows], block_len)
        for row, block in zip(open_rows, blocks, strict=True):
            num_rounds += 1
            rest = answers[row][at[row] :]
            agreed = 0
            while agreed < min(len(block), len(rest)) and block[agreed] == rest[agreed]:
                agreed += 1
            for position in range(len(block)):
                drafted[position] += 1
                accepted[position] += position < agreed
            at[row] += agreed + 1
    return GreedyAgreement(num_rounds, tuple(drafted), tuple(accepted))
