"""The interface of methods: frozen objects without state of their own; the caller passes a state in.

``start`` makes a request's state, ``decide`` reads it, ``learn`` returns the next one. The state that all requests
share is a state of the same method that learns from every request's rounds; ``start(shared)`` makes a new request's
state from it, ``start(None)`` starts from nothing (at process start, or for a request whose answer must not depend on
other requests). A method's fields are its parameters; the defaults are the published values, if there are any.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from adasd.cost_table import CostTable
from adasd.methods.inputs import BatchInputs, BlockInputs
from adasd.rounds import Params, RoundCompleted, StopRule

if TYPE_CHECKING:
    from torch import Tensor

State = TypeVar("State")

SHARED_FROM = 1.5
"""Mean sessions per pass from which on a target counts as shared."""


@dataclass(frozen=True, slots=True)
class RoundOutlook:
    """All inputs of a method before a round; times are None until measured."""

    max_draft_tokens: int  # tokens that this round may draft, >= 1
    remaining_tokens: int  # tokens that the answer may still get, >= max_draft_tokens + 1
    num_emitted: int = 0  # tokens of the answer so far
    num_relaxed: int = 0  # of these, accepted by relaxation
    max_relaxed_fraction: float = 1.0  # largest share of the answer that may be relaxed
    num_rounds: int = 0  # rounds that this request has learned from
    survival: tuple[float, ...] = ()  # entry k - 1 is S_k = P(first k drafted tokens accepted)
    draft_ms: float | None = None  # draft compute per drafted token
    hop_ms: float | None = None  # draft wall time of a round beyond its compute: links and queue
    verify_ms: float | None = None  # target wall time of a round without a block
    verify_ms_per_token: float = 0.0  # added to it by each token of a block
    mean_block: float | None = None  # tokens per block
    batch_size: float = 1.0  # mean number of sessions in a pass of the target
    cost: CostTable = field(default_factory=CostTable)  # milliseconds of the target's passes by their tokens
    wait_ms: float = 0.0  # target wall time of a round beyond its passes: links and queue
    queue_ms: float | None = None  # the part of wait_ms spent waiting for a pass
    plain_ms: float | None = None  # wall time of a token that is decoded plainly
    may_bypass: bool = True  # whether a round may draft nothing because drafting does not pay
    exposed: float = 1.0  # share of a block's drafting time that its round waits for

    @property
    def is_shared(self) -> bool:
        """Whether several sessions share the target's passes."""
        return self.batch_size >= SHARED_FROM

    @property
    def has_times(self) -> bool:
        """Whether both sides' times were measured."""
        return None not in (self.verify_ms, self.draft_ms, self.hop_ms)


class Described(Protocol):
    """A method's description."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str:
        """One line to help choose a method."""
        ...

    @property
    def source(self) -> str:
        """Where the method is published."""
        ...


class DraftingMethod(ABC, Generic[State]):
    """Decides when a block ends."""

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    default_block: ClassVar[int | None] = None
    """Tokens per block for requests that name no maximum; None: the deployment's maximum."""

    @abstractmethod
    def start(self, shared: State | None) -> State: ...

    @abstractmethod
    def decide(self, state: State, outlook: RoundOutlook) -> StopRule:
        """At most ``outlook.max_draft_tokens`` tokens; 0 for a plain round."""

    @abstractmethod
    def learn(self, state: State, round: RoundCompleted) -> State: ...


class Bounds(NamedTuple):
    """The closed range of a parameter on the wire, and its length if it is a table."""

    low: float
    high: float
    length: int | None = None


class AcceptanceMethod(ABC, Generic[State]):
    """Decides which tokens that failed the exact test are accepted anyway.

    ``decide`` runs in the session's process and sends parameters to the target; there ``chance`` applies them to a
    batch of sessions and depends on nothing else. ``reference_chance`` is its slow twin. A rule's cost (the expected
    total variation to the target's distribution) is computed from ``chance``.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    rule_params: ClassVar[Mapping[str, Bounds]]
    """The parameters that ``decide`` sends and ``chance`` reads."""
    needs_distances: ClassVar[bool] = False
    """Whether it reads the Jensen-Shannon distance, for which the draft must send its distributions."""
    costs_whole_tokens: ClassVar[bool] = False
    """Whether each relaxed token costs 1 of ``max_distortion``: set if chances depend on later tokens."""

    @abstractmethod
    def start(self, shared: State | None) -> State: ...

    @abstractmethod
    def decide(self, state: State, outlook: RoundOutlook) -> Params | None:
        """Parameters of the next round; None: nothing is relaxed."""

    @abstractmethod
    def learn(self, state: State, round: RoundCompleted) -> State: ...

    @staticmethod
    @abstractmethod
    def chance(at: BatchInputs, ids_GKN: Tensor) -> Tensor:
        """The chance that each of these tokens is accepted if it fails the exact test: [G, K, N] or [G, K, 1].

        ``ids_GKN`` are N token ids per drafted position of G sessions (the first is the drafted token itself).
        """

    @staticmethod
    @abstractmethod
    def reference_chance(block: BlockInputs, i: int, token: int) -> float:
        """The same for one token at position i of one session's block."""

    @staticmethod
    def largest_distance(params: Params) -> float | None:
        """The largest distance at which a token is accepted with a chance of at least 1/2; None: not by distance."""
        return None


class Stateless:
    """A method that learns nothing."""

    def start(self, shared: None) -> None:
        return None

    def learn(self, state: None, round: RoundCompleted) -> None:
        return None
