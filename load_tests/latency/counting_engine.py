"""An engine without a model that counts. It measures everything around the forward pass, and serves in tests.

The model: token t is followed by (t + 1) mod vocab_size. A draft counts until its rule stops it; a target accepts
tokens that continue the count. Contract and lengths as in adasd.ports.Engine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from adasd.errors import IllegalEvent, InvalidRequest, Overloaded, StaleCache, UnknownSession
from adasd.rounds import (
    CacheUse,
    CallFailed,
    DraftBlock,
    DraftCall,
    OpenCall,
    PrefixStats,
    Verdict,
    VerifyCall,
)


@dataclass(slots=True)
class _Slot:
    max_len: int
    tokens: list[int] = field(default_factory=list)  # cached ones


class CountingEngine:
    """Answers all waiting calls in each step, which sleeps for ``step_ms`` milliseconds."""

    def __init__(
        self, num_slots: int = 32, max_context: int = 4096, vocab_size: int = 1000, step_ms: float = 0.0
    ) -> None:
        self.num_slots, self.max_context, self.vocab_size, self.step_ms = (
            num_slots,
            max_context,
            vocab_size,
            step_ms,
        )
        self._slots: dict[str, _Slot] = {}
        self._waiting: dict[str, DraftCall | VerifyCall] = {}

    @property
    def num_free_slots(self) -> int:
        return self.num_slots - len(self._slots)

    @property
    def num_pending(self) -> int:
        return len(self._waiting)

    @property
    def verdict_backend(self) -> str:
        return "fake"

    @property
    def prefix_stats(self) -> PrefixStats:
        return PrefixStats()  # no prefix cache

    @property
    def cache_use(self) -> CacheUse:
        return CacheUse(self.num_slots, self.max_context, len(self._slots))

    def prepare(self, call: OpenCall) -> None:
        pass  # no grammars

    def open(self, call: OpenCall) -> None:
        if call.max_len > self.max_context:
            raise InvalidRequest(f"max_len {call.max_len} exceeds {self.max_context}", "max_len")
        if not self.num_free_slots:
            raise Overloaded("no slot is free")
        self._slots[call.session] = _Slot(call.max_len)

    def cached_len(self, session: str) -> int:
        return len(self._slot(session).tokens)

    def submit(self, call: DraftCall | VerifyCall) -> None:
        slot = self._slot(call.session)
        waiting = self._waiting.get(call.session)
        if waiting is not None and not (isinstance(waiting, DraftCall) and isinstance(call, DraftCall)):
            raise IllegalEvent(f"a call of session {call.session} waits already")
        if call.keep_len > len(slot.tokens):
            raise StaleCache(call.session, call.keep_len, len(slot.tokens))
        more = len(call.block) if isinstance(call, VerifyCall) else call.rule.max_tokens
        if call.keep_len + len(call.feed) + more > slot.max_len:
            raise InvalidRequest(f"{call.keep_len} + {len(call.feed)} + {more} tokens exceed {slot.max_len}")
        self._waiting[call.session] = call

    def step(self) -> list[DraftBlock | Verdict | CallFailed]:
        if self.step_ms:
            time.sleep(1e-3 * self.step_ms)
        calls, self._waiting = self._waiting, {}
        return [
            self._draft(call) if isinstance(call, DraftCall) else self._verify(call)
            for call in calls.values()
        ]

    def close(self, session: str) -> None:
        self._slots.pop(session, None)
        self._waiting.pop(session, None)

    def check_integrity(self) -> None:
        assert self._waiting.keys() <= self._slots.keys(), "a call waits without a slot"
        assert all(len(slot.tokens) <= slot.max_len for slot in self._slots.values()), "a slot is overfull"

    def _slot(self, session: str) -> _Slot:
        if session not in self._slots:
            raise UnknownSession(session)
        return self._slots[session]

    def _feed(self, call: DraftCall | VerifyCall) -> list[int]:
        tokens = self._slots[call.session].tokens
        tokens[call.keep_len :] = call.feed
        return tokens

    def _draft(self, call: DraftCall) -> DraftBlock:
        tokens = self._feed(call)
        base_len, last = len(tokens), tokens[-1] if tokens else 0
        block = [(last + 1 + i) % self.vocab_size for i in range(call.rule.max_tokens)]
        tokens.extend(block[:-1])
        return DraftBlock(
            call.session,
            call.epoch,
            base_len,
            tuple(block),
            (0.5,) * len(block),
            compute_ms=self.step_ms,
            runner_ups=tuple((token + 1) % self.vocab_size for token in block)
            if call.rule.want_runner_ups
            else (),
        )

    def _verify(self, call: VerifyCall) -> Verdict:
        tokens = self._feed(call)
        base_len, last = len(tokens), tokens[-1] if tokens else 0
        exact_ok = [token == (last + 1 + i) % self.vocab_size for i, token in enumerate(call.block)]
        num_accepted = exact_ok.index(False) if False in exact_ok else len(exact_ok)
        tokens.extend(call.block[:num_accepted])
        return Verdict(
            session=call.session,
            epoch=call.epoch,
            base_len=base_len,
            num_accepted=num_accepted,
            next_token=(last + num_accepted + 1) % self.vocab_size,
            relaxed=(False,) * num_accepted,
            exact_ok=tuple(exact_ok[: num_accepted + 1]),
            compute_ms=self.step_ms,
        )
