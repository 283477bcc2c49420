"""A session's figures: what speculation did for this answer, added up verdict by verdict."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from adasd.results import EmittedToken, TokenKind
from adasd.rounds import RoundCompleted

_PLACE = {kind: place for place, kind in enumerate(TokenKind)}


class Tally(NamedTuple):
    """Counts in tokens, times in milliseconds. Prefill counts as a verdict, not as a round."""

    num_rounds: int = 0
    cached_tokens: int = 0
    accepted_per_round: tuple[int, ...] = ()  # rounds with a block only
    drafted_per_round: tuple[int, ...] = ()
    kinds: tuple[int, ...] = (0,) * len(TokenKind)  # emitted tokens by provenance, in the order of TokenKind
    draft_ms: float = 0.0
    verify_ms: float = 0.0
    network_ms: float = 0.0
    draft_lost: int = 0
    target_lost: int = 0
    num_ahead: int = 0
    num_ahead_used: int = 0

    def of_kind(self, kind: TokenKind) -> int:
        """Emitted tokens of one provenance."""
        return self.kinds[_PLACE[kind]]

    def with_round(self, done: RoundCompleted) -> Tally:
        """Add a verdict and the block behind it."""
        drafted, verdict = done.drafted, done.verdict
        draft_ms = drafted.compute_ms if drafted else 0.0
        waited = max(0.0, done.draft_ms - draft_ms) + max(0.0, done.verify_ms - verdict.compute_ms)
        judged = done.num_drafted > 0
        return self._replace(
            num_rounds=self.num_rounds + (not done.prefill),
            cached_tokens=self.cached_tokens + verdict.cached_tokens,
            draft_ms=self.draft_ms + draft_ms,
            verify_ms=self.verify_ms + verdict.compute_ms,
            network_ms=self.network_ms + waited,
            accepted_per_round=(*self.accepted_per_round, *(verdict.num_accepted,) * judged),
            drafted_per_round=(*self.drafted_per_round, *(done.num_drafted,) * judged),
        )

    def with_tokens(self, tokens: Iterable[EmittedToken]) -> Tally:
        """Add emitted tokens by provenance."""
        kinds = list(self.kinds)
        for token in tokens:
            kinds[_PLACE[token.kind]] += 1
        return self._replace(kinds=tuple(kinds))
