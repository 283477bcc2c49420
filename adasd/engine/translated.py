"""A draft engine with another vocabulary than its target: it speaks the target's ids at its port.

It drafts greedily, without the request's penalties and grammar: for requests whose exact test compares tokens
(greedy, or seeded), any block is allowed, and only those tokens are accepted that the target would emit. Requests
that need the draft's probabilities get no draft from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from adasd.errors import InvalidRequest, StaleCache, UnknownSession
from adasd.ports import Engine
from adasd.rounds import (
    CacheUse,
    CallFailed,
    DraftBlock,
    DraftCall,
    OpenCall,
    PrefixStats,
    SamplingTransform,
    Verdict,
    VerifyCall,
)

_GREEDY = SamplingTransform(temperature=0.0)


@dataclass(slots=True)
class _Session:
    """One session in both vocabularies."""

    tokens: list[int] = field(default_factory=list)  # in the draft's ids
    ends: list[int] = field(
        default_factory=lambda: [0]
    )  # ends[i]: draft tokens for the first i target tokens
    cached: int = 0  # target tokens that the draft's cache holds

    def cut(self, length: int) -> None:
        """Keep the first ``length`` target tokens."""
        del self.ends[length + 1 :]
        del self.tokens[self.ends[-1] :]
        self.cached = min(self.cached, length)

    def add(self, ids: tuple[int, ...]) -> None:
        """Append the draft's ids for one target token."""
        self.tokens += ids
        self.ends.append(len(self.tokens))


class TranslatedDraft:
    """``adasd.ports.Engine`` over a draft's engine; drafts only.

    ``to_draft`` gives the draft's ids for one target token, maybe none; ``to_target`` the way back, or None.
    """

    drafts_itself = False

    def __init__(
        self,
        inner: Engine,
        to_draft: Callable[[int], tuple[int, ...]],
        to_target: Callable[[int], int | None],
        vocab_size: int,
    ) -> None:
        self.inner, self._to_draft, self._to_target = inner, to_draft, to_target
        self.vocab_size = vocab_size
        self._sessions: dict[str, _Session] = {}
        self._calls: dict[str, DraftCall] = {}  # the newest of each session, in the target's ids

    @property
    def num_slots(self) -> int:
        return self.inner.num_slots

    @property
    def num_free_slots(self) -> int:
        return self.inner.num_free_slots

    @property
    def max_context(self) -> int:
        return self.inner.max_context

    @property
    def num_pending(self) -> int:
        return self.inner.num_pending

    @property
    def verdict_backend(self) -> str:
        return self.inner.verdict_backend

    @property
    def prefix_stats(self) -> PrefixStats:
        return self.inner.prefix_stats

    @property
    def cache_use(self) -> CacheUse:
        return self.inner.cache_use

    def prepare(self, call: OpenCall) -> None:
        """Nothing: grammars are left to the target."""

    def open(self, call: OpenCall) -> None:
        if call.transform.temperature > 0 and call.transform.seed is None:
            raise InvalidRequest(
                "the draft has another vocabulary than its target: it drafts for greedy and seeded requests only"
            )
        # the text may take more of the draft's tokens than of the target's
        room = max(call.max_len, min(self.inner.max_context, 2 * call.max_len + 64))
        self.inner.open(OpenCall(call.session, _GREEDY, room))
        self._sessions[call.session] = _Session()

    def cached_len(self, session: str) -> int:
        return self._get(session).cached

    def submit(self, call: DraftCall | VerifyCall) -> None:
        if not isinstance(call, DraftCall) or call.rule.row_len:
            raise InvalidRequest(
                "the draft has another vocabulary than its target: it sends blocks, and no probabilities"
            )
        state = self._get(call.session)
        if call.keep_len > state.cached:
            raise StaleCache(call.session, call.keep_len, state.cached)
        state.cut(call.keep_len)
        keep = state.ends[-1]
        for token in call.feed:
            state.add(self._to_draft(token))
        if keep == len(state.tokens) and keep:  # nothing of it can be written: feed the last token again
            keep -= 1
        feed = tuple(state.tokens[keep:])
        rule = replace(call.rule, want_runner_ups=False, max_tokens=call.rule.max_tokens if feed else 0)
        self.inner.submit(replace(call, keep_len=keep, feed=feed, rule=rule))
        self._calls[call.session] = call

    def step(self) -> list[DraftBlock | Verdict | CallFailed]:
        return [self._translated(answer) for answer in self.inner.step()]

    def close(self, session: str) -> None:
        self._sessions.pop(session, None)
        self._calls.pop(session, None)
        self.inner.close(session)

    def check_integrity(self) -> None:
        self.inner.check_integrity()
        for session, state in self._sessions.items():
            assert state.ends[-1] == len(state.tokens), session
            assert state.cached < len(state.ends), session

    def _translated(self, answer: DraftBlock | Verdict | CallFailed) -> DraftBlock | Verdict | CallFailed:
        """A block in the target's ids, up to the first token that the target does not have."""
        state, call = self._sessions[answer.session], self._calls[answer.session]
        if not isinstance(answer, DraftBlock):
            state.cut(call.keep_len)
            return answer
        base_len, tokens = call.keep_len + len(call.feed), list[int]()
        for token in answer.tokens:
            ours = self._to_target(token)
            if ours is None or ours >= self.vocab_size:
                break
            tokens.append(ours)
            state.add((token,))
        num = len(tokens)
        state.cached = base_len + max(num - 1, 0)
        return replace(
            answer,
            base_len=base_len,
            tokens=tuple(tokens),
            entropies=answer.entropies[:num],
            confidences=answer.confidences[:num],
        )

    def _get(self, session: str) -> _Session:
        if session not in self._sessions:
            raise UnknownSession(session)
        return self._sessions[session]
