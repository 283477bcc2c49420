"""What an acceptance method may read: tensors for a batch of sessions, and numbers of one session for its slow twin.

Shape letters: G sessions under the method, K drafted tokens, V vocabulary, N token ids per position, T entries of a
table. ``adasd.specdec`` supplies both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class BatchInputs(Protocol):
    """The drafted positions of G sessions."""

    @property
    def lens_G(self) -> Tensor:
        """Drafted tokens of each session; positions from there on are padding."""
        ...

    @property
    def place_K(self) -> Tensor:
        """Each position's index in its block."""
        ...

    @property
    def masked_logits_GKV(self) -> Tensor:
        """The target's after penalties, bias and masks, at temperature 1."""
        ...

    @property
    def probs_GKV(self) -> Tensor:
        """The probabilities of these logits."""
        ...

    @property
    def entropy_GK1(self) -> Tensor:
        """Their entropy in nats."""
        ...

    @property
    def exact_ok_GK(self) -> Tensor:
        """bool: the drafted token passes the exact test."""
        ...

    @property
    def distance_GK1(self) -> Tensor:
        """Jensen-Shannon distance, base 2; NaN without the draft's distributions."""
        ...

    def probs_of(self, ids_GKN: Tensor) -> Tensor:
        """The target's probabilities of some tokens."""
        ...

    def likely(self, ids_GKN: Tensor, min_ratio_G11: Tensor) -> Tensor:
        """Whether tokens have at least this share of the largest probability."""
        ...

    def number(self, name: str) -> Tensor:
        """A parameter of each session, [G, 1, 1]."""
        ...

    def table(self, name: str) -> Tensor:
        """A table of each session, [G, T]."""
        ...


class BlockInputs(Protocol):
    """One session's block: as ``BatchInputs``, position by position."""

    @property
    def tokens(self) -> Sequence[int]: ...

    @property
    def logits(self) -> Sequence[Sequence[float]]:
        """The target's after penalties, bias and masks, at temperature 1."""
        ...

    @property
    def exact_ok(self) -> Callable[[int], bool]:
        """Whether the token at a position passes the exact test."""
        ...

    def plain(self, i: int) -> list[float]:
        """The target's probabilities at position i, by token id."""
        ...

    def entropy(self, i: int) -> float:
        """Their entropy in nats."""
        ...

    def likely(self, i: int, token: int, min_ratio: float) -> bool:
        """Whether a token has at least this share of the largest probability."""
        ...

    def distance(self, i: int) -> float:
        """Jensen-Shannon distance, base 2; nan without the draft's distribution."""
        ...

    def number(self, name: str) -> float:
        """A parameter."""
        ...

    def table(self, name: str) -> tuple[float, ...]:
        """A table."""
        ...
