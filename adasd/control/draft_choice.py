"""Choice among draft sources while serving: the one with the highest yield on prompts of this kind.

On-the-fly adaptation (Liu, Park, Shen, ACL 2025 long 482) chooses the draft model by estimated goodput; the
estimator here is our own reading. A source's yield is its tokens per unit of time, measured in *plain rounds*
(verdicts without a block), so that a busy target does not count against the source in use. Yields are kept per source
and per *task* (prompts that begin alike, of one mode and range of temperatures, which change what is accepted); a task
with little evidence is shrunk towards the mean over all tasks.

Look-ups are judged on every text that the target writes, used or not, as in HedgeSpec (arXiv:2510.20064): that costs
nothing, so they are never tried. A draft model is judged on what it drafted. Among models, choices follow discounted
UCB (Garivier and Moulines, arXiv:0805.3415): the yield plus a bonus for those tried rarely or long ago. Within an
answer, another source must win with the time to attach it included. Choices read past rounds only, so the output's
distribution does not depend on them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Hashable, Sequence
from typing import NamedTuple, Protocol

TASK_LEN = 16
"""Number of first tokens that prompts of one task share."""
MAX_TASKS = 256
"""Tasks that are kept; the least recently seen is dropped."""
FADE = 0.999
"""Decay of a task's evidence per round: a memory of 1,000 rounds."""
LEAN = 20.0
"""Weight of the mean over all tasks, in plain rounds of one task."""
START_COST = 10.0
"""Plain rounds of evidence below which a source counts as untried."""
BONUS = 0.5
"""Scale of the bonus, in tokens per plain round; low, because a trial costs a whole answer."""
OWN_ROUNDS, PLAIN_ROUNDS = 8, 4
"""Rounds of an answer before another source is considered; and while it is decoded plainly."""
MARGIN = 0.15
"""Relative saving of time needed for a switch within an answer."""


class Yield(NamedTuple):
    """A source's tokens, and their cost in plain rounds. A named tuple, since every round makes a handful of them."""

    tokens: float = 0.0
    cost: float = 0.0

    def faded(self) -> Yield:
        return Yield(FADE * self.tokens, FADE * self.cost)

    def plus(self, tokens: float, cost: float) -> Yield:
        return Yield(self.tokens + tokens, self.cost + cost)

    def gain(self, prior: float) -> float:
        """Tokens per plain round, shrunk towards ``prior``."""
        return (self.tokens + LEAN * prior) / (self.cost + LEAN)


NOTHING = Yield()


class Judged(NamedTuple):
    """Rounds that a source would have had on a text."""

    rounds: int = 0
    tokens: int = 0  # that they would have emitted
    drafted: int = 0  # and judged

    def plus(self, tokens: int, drafted: int) -> Judged:
        """One more round."""
        return Judged(self.rounds + 1, self.tokens + tokens, self.drafted + drafted)


class Unused(Protocol):
    """A source that can be judged without being used."""

    def follow(self, tokens: Sequence[int]) -> Judged:
        """Read what the target wrote next; the rounds that ended in it."""
        ...


class Selector:
    """Chooses sources by their yields; one per process and target, used from one thread.

    ``judged``: the candidates that are judged without being used, so that nothing is gained by trying them.
    """

    def __init__(self, candidates: Sequence[str], judged: Collection[str] = ()) -> None:
        self.candidates, self._judged = tuple(candidates), frozenset(judged)
        self._all = dict.fromkeys(self.candidates, NOTHING)
        self._tasks: OrderedDict[int, dict[str, Yield]] = OrderedDict()
        self._attach_cost: dict[str, float] = {}  # plain rounds until a source drafts

    def first(self, task: int, excluded: Collection[str] = (), idle: Collection[str] = ()) -> str:
        """The source for the start of an answer. With an ``idle`` one it would be decoded plainly."""
        names = self._possible(excluded)
        seen = self._tasks.get(task, {})
        total = math.log(1 + sum(seen.get(name, NOTHING).cost for name in names))

        def score(name: str) -> float:
            if name in idle:
                return 1.0  # and nothing would be learned about it
            if name in self._judged:
                return self.gain(task, name)
            if self._all[name].cost < START_COST:
                return math.inf
            cost = min(seen.get(name, NOTHING).cost, self._all[name].cost)
            return self.gain(task, name) + BONUS * math.sqrt(2 * total / (LEAN + cost))

        return max(names, key=score)  # the first of equals

    def better(
        self,
        task: int,
        current: str,
        own: Yield,
        remaining_tokens: int,
        excluded: Collection[str] = (),
        at_least: float = 0.0,
    ) -> str | None:
        """Another source that would finish the answer faster by more than MARGIN, time to attach included; or None.

        ``own`` is the current source's yield in this answer, ``at_least`` what the answer gets whatever the source.
        """
        if own.cost <= 0.0:
            return None
        needed = remaining_tokens / max(at_least, own.gain(self.gain(task, current)))
        times = {
            name: remaining_tokens / self.gain(task, name) + self._attach_cost.get(name, 0.0)
            for name in self._possible(excluded)
            if name != current and (name in self._judged or self._all[name].cost >= START_COST)
        }
        best = min(times, key=times.__getitem__, default=None)
        return best if best is not None and times[best] < (1 - MARGIN) * needed else None

    def gain(self, task: int, name: str) -> float:
        """Expected tokens per plain round; 1 is what plain decoding yields."""
        overall = self._all[name].gain(1.0)
        return self._tasks.get(task, {}).get(name, NOTHING).gain(overall)

    def learn(self, task: int, name: str, tokens: float, cost: float, *, used: bool = True) -> None:
        """Add rounds of source ``name``; ``cost`` in plain rounds. Unknown names are ignored.

        Older evidence fades with each round that a source was used for.
        """
        if name not in self._all:
            return
        seen = self._tasks.setdefault(task, {})
        self._tasks.move_to_end(task)
        if len(self._tasks) > MAX_TASKS:
            self._tasks.popitem(last=False)
        if used:
            for other in seen:
                seen[other] = seen[other].faded()
            self._all = {other: brought.faded() for other, brought in self._all.items()}
        seen[name] = seen.get(name, NOTHING).plus(tokens, cost)
        self._all[name] = self._all[name].plus(tokens, cost)

    def attached(self, name: str, cost: float) -> None:
        """Learn that attaching a source took ``cost`` plain rounds."""
        before = self._attach_cost.get(name, cost)
        self._attach_cost[name] = before + 0.2 * (cost - before)

    def _possible(self, excluded: Collection[str]) -> list[str]:
        return [name for name in self.candidates if name not in excluded] or list(self.candidates)


def task_of(prompt: Sequence[int], kind: Hashable = None) -> int:
    """The task of a prompt, by its first tokens; ``kind``: what else tasks are told apart by."""
    return hash((tuple(prompt[:TASK_LEN]), kind))
