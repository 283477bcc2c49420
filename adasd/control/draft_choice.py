"""Choosing among draft sources while serving: which one yields the most on prompts of this kind.

On-the-fly adaptation (Liu, Park, Shen, ACL 2025 long 482) chooses the draft model by estimated goodput; the
estimator here is our own reading. Every round says how many tokens a source brought and how much time that took,
measured in *plain rounds* (verdicts without a block), so that a busy target does not count against whichever
source it met. Evidence is kept per source and per *task*, prompts that begin alike; a task that was seen little
leans on what all tasks say of the source. Choices follow discounted UCB (Garivier and Moulines, arXiv:0805.3415):
the yield, and a bonus for what was seen little or long ago. Within an answer another source has to win even when
the time to attach it counts.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

TASK_LEN = 16
"""Leading tokens by which prompts are of one task."""
MAX_TASKS = 256
"""Tasks that are told apart; the one longest unseen is forgotten."""
FADE = 0.999
"""Of all evidence of a task, per round: a memory of 1,000 rounds."""
LEAN = 20.0
"""What all tasks say of a source counts as so many plain rounds of one task."""
START_COST = 10.0
"""Plain rounds of evidence below which a source counts as untried."""
BONUS = 0.5
"""Scale of the bonus, in tokens per plain round: what is tried again costs whole answers."""
OWN_ROUNDS = 8
"""Rounds of an answer's own before another source is considered."""
MARGIN = 0.15
"""Relative saving of time that a switch within an answer needs."""


@dataclass(frozen=True, slots=True)
class Yield:
    """What a source brought: tokens, and their cost in plain rounds."""

    tokens: float = 0.0
    cost: float = 0.0

    def faded(self) -> Yield:
        return Yield(FADE * self.tokens, FADE * self.cost)

    def plus(self, tokens: float, cost: float) -> Yield:
        return Yield(self.tokens + tokens, self.cost + cost)

    def gain(self, prior: float) -> float:
        """Tokens per plain round, leaning on ``prior``."""
        return (self.tokens + LEAN * prior) / (self.cost + LEAN)


NOTHING = Yield()


class Selector:
    """What is known of the sources; one per process and target, used from one thread.

    Candidates are tried unasked. Guests are not: a trial costs what the best source would have yielded. They are
    chosen among the others while requests that name them show what they yield.
    """

    def __init__(self, candidates: Sequence[str], guests: Sequence[str] = ()) -> None:
        self.candidates, self.guests = tuple(candidates), tuple(guests)
        self._all = dict.fromkeys((*self.candidates, *self.guests), NOTHING)
        self._tasks: OrderedDict[int, dict[str, Yield]] = OrderedDict()
        self._attach_cost: dict[str, float] = {}  # plain rounds until a source drafts

    def first(self, task: int, excluded: Collection[str] = ()) -> str:
        """The source that an answer begins with."""
        names = self._possible(excluded)
        seen = self._tasks.get(task, {})
        total = math.log(1 + sum(seen.get(name, NOTHING).cost for name in names))

        def score(name: str) -> float:
            if self._all[name].cost < START_COST:
                return math.inf
            cost = min(seen.get(name, NOTHING).cost, self._all[name].cost)
            return self.gain(task, name) + BONUS * math.sqrt(2 * total / (LEAN + cost))

        return max(names, key=score)  # the first of equals

    def better(
        self, task: int, current: str, own: Yield, remaining_tokens: int, excluded: Collection[str] = ()
    ) -> str | None:
        """Another source that would finish the answer sooner by more than MARGIN, its attachment included.

        ``own`` is what the current source brought in this answer.
        """
        if own.cost <= 0.0:
            return None
        needed = remaining_tokens / own.gain(self.gain(task, current))
        times = {
            name: remaining_tokens / self.gain(task, name) + self._attach_cost.get(name, 0.0)
            for name in self._possible(excluded)
            if name != current and self._all[name].cost >= START_COST
        }
        best = min(times, key=times.__getitem__, default=None)
        return best if best is not None and times[best] < (1 - MARGIN) * needed else None

    def gain(self, task: int, name: str) -> float:
        """Expected tokens per plain round; 1 is what plain decoding yields."""
        overall = self._all[name].gain(1.0)
        return self._tasks.get(task, {}).get(name, NOTHING).gain(overall)

    def learn(self, task: int, name: str, tokens: float, cost: float) -> None:
        """A round of an answer under ``name``; ``cost`` in plain rounds. Of no effect for a name that is unknown."""
        if name not in self._all:
            return
        seen = self._tasks.setdefault(task, {})
        self._tasks.move_to_end(task)
        if len(self._tasks) > MAX_TASKS:
            self._tasks.popitem(last=False)
        for other in seen:
            seen[other] = seen[other].faded()
        seen[name] = seen.get(name, NOTHING).plus(tokens, cost)
        self._all = {other: brought.faded() for other, brought in self._all.items()}
        self._all[name] = self._all[name].plus(tokens, cost)

    def attached(self, name: str, cost: float) -> None:
        """Attaching a source and letting it read the text took so many plain rounds."""
        before = self._attach_cost.get(name, cost)
        self._attach_cost[name] = before + 0.2 * (cost - before)

    def _possible(self, excluded: Collection[str]) -> list[str]:
        seen = [name for name in self.guests if self._all[name].cost >= START_COST]
        return [name for name in (*self.candidates, *seen) if name not in excluded] or list(self.candidates)


def task_of(prompt: Sequence[int]) -> int:
    """The task that a prompt belongs to, by how it begins."""
    return hash(tuple(prompt[:TASK_LEN]))
