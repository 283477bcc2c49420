"""Slices: under load, whether drafting pays is measured on all requests together.

Requests that run at the same time share the target's passes and the machine. What a block costs the others does not
show in its own round, so no request can tell alone whether drafting pays. So all requests of one circumstance change
together: in one *slice* of time they all draft, in another they all decode plainly. A slice yields tokens per
millisecond of the whole process. Usually the faster kind is on. Now and then the other kind is on trial, and is
compared with the slices before and after it, so that a machine that slows down affects both. Trials lose about the
share ``PROBING`` of the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from adasd.rounds import RoundCompleted

SETTLING = 4
"""First rounds of a slice, not measured, per running request: drafts are attached, or the last blocks end."""
DRAFTING_ROUNDS, PLAIN_ROUNDS = 24, 72
"""Measured rounds of a slice, per running request; several answers, since some costs come once per answer."""
FADE = 0.8
"""Of a trial's weight with every later one: a memory of five trials."""
MARGIN = 0.02
"""Relative gain from which on the other kind of slice becomes the usual one."""
CLEAR = 0.25
"""Relative gain or loss for which one trial is enough; otherwise it takes two."""
CUT_ROUNDS = 8
"""Measured rounds of a trial, per running request, after which a clear loss ends it."""
MANY = 2
"""Load (``load_of``) from which on requests decode plainly before the first trial: eight at a time."""
PROBING = 0.01
FIRST_WAIT, SHORTEST_WAIT, LONGEST_WAIT = 2, 8, 256
"""Usual slices between two trials, FIRST_WAIT until the answer is sure. Every change costs something too: drafts are
attached and read the text.
"""


@dataclass(frozen=True, slots=True)
class Slices:
    """Which kind of slice is on, and by how much drafting has been faster than plain decoding."""

    usually_draft: bool = True
    on_trial: bool = False
    rounds: int = 0  # of the current slice
    tokens: int = 0  # measured, of the current slice
    ms: float = 0.0  # measured time of the process: a round counts by its share of the running requests
    before: float = 0.0  # tokens per millisecond of the last usual slice; 0: there is none
    trial: float = 0.0  # of the trial whose next slice is not over yet; 0: there is none
    waited: int = 0  # usual slices since the last trial
    waited_ms: float = 0.0  # their measured time
    lost_ms: float = 0.0  # what the last trial has cost
    log_gain: float = 0.0  # mean logarithm of drafting's rate over the plain rate
    weight: float = 0.0  # decayed number of trials

    @classmethod
    def before_trials(cls, load: int, alone_drafts: bool) -> Slices:
        """Before anything is known under this load; ``alone_drafts``: whether a request that runs alone drafts."""
        return DRAFTING if load < MANY and alone_drafts else PLAIN

    @property
    def draft(self) -> bool:
        """Whether the current slice drafts."""
        return self.usually_draft is not self.on_trial

    def plain_ms(self, num_running: int) -> float | None:
        """Wall time of a token of one of ``num_running`` requests if all decoded plainly; None before a trial."""
        if not self.weight or not self.before:
            return None
        per_ms = self.before / math.exp(self.log_gain) if self.usually_draft else self.before
        return num_running / per_ms

    def learn(self, done: RoundCompleted, num_running: int) -> Slices:
        """After a round of one of ``num_running`` requests."""
        rounds, tokens, ms = self.rounds + 1, self.tokens, self.ms
        if rounds > SETTLING * num_running:
            tokens += done.verdict.num_accepted + 1
            ms += (done.draft_ms + done.verify_ms + done.overhead_ms) / num_running
        length = SETTLING + (DRAFTING_ROUNDS if self.draft else PLAIN_ROUNDS)
        cut = self.on_trial and rounds >= (SETTLING + CUT_ROUNDS) * num_running
        is_lost = cut and tokens < (1 - CLEAR) * self.before * ms
        if ms <= 0.0 or (rounds < length * num_running and not is_lost):
            return replace(self, rounds=rounds, tokens=tokens, ms=ms)
        return replace(self, rounds=0, tokens=0, ms=0.0)._ended(tokens / ms, ms)

    def _ended(self, rate: float, ms: float) -> Slices:
        """After a slice of ``rate`` tokens per millisecond."""
        if self.on_trial:
            return replace(self, on_trial=False, trial=rate, lost_ms=max(0.0, ms * (1 - rate / self.before)))
        if self.trial:
            return self._compared(rate)
        seen = replace(self, before=rate, waited=self.waited + 1, waited_ms=self.waited_ms + ms)
        return replace(seen, on_trial=seen._has_waited)

    def _compared(self, after: float) -> Slices:
        """After the slice that follows a trial."""
        gain = math.log(self.trial) - (math.log(self.before) + math.log(after)) / 2
        gain = -gain if self.usually_draft else gain
        weight = FADE * self.weight + 1
        log_gain = self.log_gain + (gain - self.log_gain) / weight
        needed = MARGIN if self.weight else CLEAR
        wins = -log_gain > needed if self.usually_draft else log_gain > needed
        if wins:  # the last slice was of the other kind
            return Slices(not self.usually_draft, before=self.trial, log_gain=log_gain, weight=weight)
        lost_ms = self.lost_ms
        return Slices(self.usually_draft, before=after, log_gain=log_gain, weight=weight, lost_ms=lost_ms)

    @property
    def _has_waited(self) -> bool:
        """Whether the next trial is due."""
        if self.weight < 1.5 and abs(self.log_gain) < CLEAR:
            return self.waited >= FIRST_WAIT
        is_paid = self.waited_ms >= self.lost_ms / PROBING or self.waited >= LONGEST_WAIT
        return is_paid and self.waited >= SHORTEST_WAIT


DRAFTING, PLAIN = Slices(usually_draft=True), Slices(usually_draft=False)
