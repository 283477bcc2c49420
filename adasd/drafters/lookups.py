"""Creates the look-up of each session of a process; remembers recent answers if that is switched on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from adasd.control.draft_sources import LOOKUPS, NGRAM
from adasd.drafters.index import Index
from adasd.drafters.lookup import Lookup
from adasd.drafters.ngram import NgramIndex
from adasd.drafters.predicted import PredictedIndex, Prediction
from adasd.drafters.recent import RecentAnswers, RememberingIndex
from adasd.drafters.suffix import SuffixAutomaton
from adasd.drafters.unused import UnusedLookup
from adasd.rounds import DraftBlock, DraftCall


def nothing_drafted(call: DraftCall) -> DraftBlock:
    """An empty block, the reply of a source that does not need to read the text."""
    return DraftBlock(call.session, call.epoch, call.keep_len + len(call.feed), (), ())


class Lookups:
    """``recent_tokens`` as in SpeculationConfig; 0 remembers nothing."""

    def __init__(self, recent_tokens: int = 0) -> None:
        self._recent = RecentAnswers(recent_tokens) if recent_tokens else None

    def lookup(self, name: str, *, alone: bool = False, prediction: Prediction | None = None) -> Lookup:
        """A new session's look-up of that name; ``alone``: it must not depend on other answers.

        With a ``prediction`` it looks there first.
        """
        make = self._index(name, alone)
        return Lookup(make if prediction is None else partial(PredictedIndex, prediction, make))

    def _index(self, name: str, alone: bool) -> Callable[[], Index]:
        assert name in LOOKUPS, name
        if name == NGRAM:
            return NgramIndex
        if self._recent is None or alone:
            return SuffixAutomaton
        return partial(RememberingIndex, self._recent)

    def unused(self, prompt: Sequence[int]) -> dict[str, UnusedLookup]:
        """Every look-up, to be judged on an answer that need not use it."""
        return {name: UnusedLookup(self._index(name, False)(), prompt) for name in LOOKUPS}

    def remember(self, answer: Sequence[int]) -> None:
        """Store a complete answer."""
        if self._recent is not None:
            self._recent.add(answer)
