"""What a policy is: a frozen, stateless object that answers questions about a state that it is handed.

``start`` makes a request's state, ``decide`` reads it, ``learn`` returns the next one. The state that all
requests share is a state of the same policy, fed with every request's rounds; ``start(shared)`` says what a
new request takes over from it, ``start(None)`` starts from nothing (process start, or a request whose rule
may depend on nothing but itself).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from adasd.cost_table import CostTable
from adasd.rounds import AcceptRule, Relax, RoundCompleted, StopRule

State = TypeVar("State")

SHARED_FROM = 1.5
"""Mean sessions per pass from which a target counts as shared."""


@dataclass(frozen=True, slots=True)
class RoundOutlook:
    """Everything that a policy may know about a request before a round; times are None until measured."""

    max_draft_tokens: int  # tokens that this round may draft, >= 1
    remaining_tokens: int  # tokens that the answer may still get, >= max_draft_tokens + 1
    num_emitted: int = 0  # tokens of the answer so far
    num_relaxed: int = 0  # of them accepted by relaxation
    max_relaxed_fraction: float = 1.0  # share of the answer that may be
    num_rounds: int = 0  # rounds that this request has learned from
    survival: tuple[float, ...] = ()  # entry k - 1 is S_k = P(first k drafted tokens accepted)
    draft_ms: float | None = None  # draft compute per drafted token
    hop_ms: float | None = None  # draft wall time of a round beyond its compute: links and queue
    verify_ms: float | None = None  # target wall time of a round without a block
    verify_ms_per_token: float = 0.0  # what each token of a block adds to it
    mean_block: float | None = None  # tokens per block
    batch_size: float = 1.0  # sessions that share one of the target's passes, mean
    cost: CostTable = field(default_factory=CostTable)  # milliseconds of its passes by their tokens
    wait_ms: float = 0.0  # target wall time of a round beyond its passes: links and queue
    queue_ms: float | None = None  # of it, waiting for a pass
    plain_ms: float | None = None  # wall time of a token that is decoded plainly
    exposed: float = 1.0  # share of a block's drafting time that its round waits for

    @property
    def is_shared(self) -> bool:
        """Whether several sessions share the target's passes."""
        return self.batch_size >= SHARED_FROM

    @property
    def has_times(self) -> bool:
        """Whether both sides' times were measured."""
        return None not in (self.verify_ms, self.draft_ms, self.hop_ms)


@dataclass(frozen=True, slots=True)
class Plan:
    """The rules of one round; ``draft.max_tokens == 0`` means that it is a plain one."""

    draft: StopRule
    accept: AcceptRule
    ahead: bool = False  # the draft may go on behind the block while the target judges it
    instead: bool = False  # it may prepare for the block's rejection meanwhile


PLAIN = Plan(StopRule(0), AcceptRule())


class Described(Protocol):
    """What a method says about itself."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str:
        """One line for people who choose."""
        ...

    @property
    def source(self) -> str:
        """Where the method is published."""
        ...


class DraftingPolicy(Described, Protocol[State]):
    """Decides when drafting stops."""

    @property
    def default_block(self) -> int | None:
        """Cap in tokens for requests that name none; None takes the deployment's cap."""
        ...

    def start(self, shared: State | None) -> State: ...

    def decide(self, state: State, outlook: RoundOutlook) -> StopRule:
        """At most ``outlook.max_draft_tokens`` tokens; 0 for a plain round."""
        ...

    def learn(self, state: State, round: RoundCompleted) -> State: ...


class AcceptancePolicy(Described, Protocol[State]):
    """Decides which tokens that failed the exact test are accepted all the same."""

    @property
    def needs_distances(self) -> bool:
        """Whether verdicts must report d_JS, which takes the draft's law along with every token."""
        ...

    @property
    def processed(self) -> bool:
        """Whether d_JS is that of the laws as sampled, rather than after masks at temperature 1."""
        ...

    @property
    def alone(self) -> bool:
        """Whether the distance decides in place of the exact test."""
        ...

    @property
    def only_sampled(self) -> bool:
        """Whether it acts on rejection sampling: it serves requests that sample, and without a seed."""
        ...

    def start(self, shared: State | None) -> State: ...

    def decide(self, state: State, outlook: RoundOutlook) -> Relax | None:
        """None: exact (nothing is relaxed)."""
        ...

    def learn(self, state: State, round: RoundCompleted) -> State: ...
