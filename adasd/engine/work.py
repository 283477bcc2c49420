"""The state of a submitted call between forward passes: what it feeds next, and its results so far.

Pure bookkeeping, no tensors: the engine takes the next input, reports its result, and finally takes the reply.
What is made for every drafted token is a named tuple: a frozen dataclass takes up to four times as long to make.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from adasd.control.exits import Exit
from adasd.engine.cache.slots import Slot
from adasd.errors import StaleCache
from adasd.results import TokenLogprob
from adasd.rounds import DraftBlock, DraftCall, DraftDistributions, SamplingTransform, Verdict, VerifyCall
from adasd.stop_rule import stops

SHORT_FEED = 32
"""A call that feeds fewer tokens than this besides its block counts as running, not as a prompt to be chunked."""


SHORT_SEQUENCE = 32
"""Sequences of at most this many tokens share a padded attention call; each longer one has its own."""


class StepInput(NamedTuple):
    """What one session feeds in one pass."""

    slot: int  # of the cache
    start: int  # position of the first token
    tokens: Sequence[int]  # at least one
    num_logits: int  # logits are computed for the last num_logits tokens
    num_scored: int = 0  # and for num_scored tokens before those, for log-probabilities of the prompt

    @property
    def end(self) -> int:
        """Tokens that the slot holds after this pass."""
        return self.start + len(self.tokens)

    @property
    def num_positions(self) -> int:
        """Positions whose logits the pass returns."""
        return self.num_scored + self.num_logits

    @property
    def is_prefill(self) -> bool:
        return len(self.tokens) - self.num_logits >= SHORT_FEED

    @property
    def attention_order(self) -> tuple[int, int]:
        """Sort key: sequences that share an attention call are adjacent, ordered by slot."""
        num = len(self.tokens)
        return (1 if num == 1 else 2 if num <= SHORT_SEQUENCE else 2 + num, self.slot)


class Proposed(NamedTuple):
    """One drafted token and its signals."""

    token: int
    entropy: float  # nats
    max_prob: float
    row_ids: np.ndarray | None = None  # [R] int32
    row_logprobs: np.ndarray | None = None  # [R] float32
    other: int | None = None  # the runner-up token; valid only if the rule sets want_runner_ups


@dataclass(frozen=True, slots=True)
class Judged:
    """A judged block; fields as in Verdict."""

    num_accepted: int
    next_token: int
    relaxed: tuple[bool, ...] = ()
    exact_ok: tuple[bool, ...] = ()
    distances: tuple[float, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    distortion: float = 0.0


Result = Proposed | Judged


@dataclass(slots=True)
class _Work:
    """State that draft and verify calls share: slot, tokens to feed, and timings."""

    slot: Slot
    transform: SamplingTransform
    submitted_s: float
    tokens: list[int] = field(default_factory=list)  # everything to feed, as far as known
    done: int = 0  # how many of ``tokens`` are cached
    num_found: int = 0  # how many of those were found in the prefix cache
    started_s: float | None = None  # when its first pass began
    compute_s: float = 0.0
    last_pass: int = 0  # number of the last pass it took part in
    batch_size: int = 1  # sessions in that pass
    batch_tokens: int = 0  # tokens in it
    first_fed: int = 0  # position of the first of ``tokens``
    num_resumed: int = (
        0  # how many of ``tokens`` an earlier call had fed already, before the session was preempted
    )

    @property
    def num_layers(self) -> int:
        """Layers of the model that its passes compute; 0: all."""
        return 0

    def prefix(self, num_fed: int) -> list[int]:
        """The first of ``tokens``: what was valid before a preemption, and ``num_fed`` tokens of the call."""
        return self.tokens[: self.num_resumed + num_fed]

    def _input(self, tokens: Sequence[int], num_logits: int, num_scored: int = 0) -> StepInput:
        return StepInput(self.slot.index, self.slot.cached_len, tokens, num_logits, num_scored)

    def done_with(self) -> None:
        """The call is answered; what it fed stays cached."""

    def fed(self, given: StepInput) -> None:
        """The input's tokens are cached now."""
        self.done += len(given.tokens)
        self.slot.extend(given.tokens)

    def preempted(self) -> list[int]:
        """The slot's place in the cache is given back: feed everything again.

        Returns the tokens that stay valid until this call feeds them: none.
        """
        kept = self.slot.tokens[: self.first_fed]
        self.tokens = [*kept, *self.tokens]
        self.num_resumed += len(kept)
        self.first_fed = self.done = self.num_found = 0
        return []

    def resume(self, evicted: list[int]) -> None:
        """Before the first pass: also feed these tokens, which an earlier call had fed."""
        self.tokens = [*evicted, *self.tokens]
        self.num_resumed, self.first_fed = len(evicted), 0

    def found(self, num_cached: int) -> None:
        """The first ``num_cached`` tokens are in the slot's cache already."""
        self.done = num_cached
        self.num_found = 0 if self.num_resumed else num_cached

    def timings_ms(self) -> tuple[float, float]:
        """Time in passes, and time waiting before the first one."""
        waited_s = (self.started_s or self.submitted_s) - self.submitted_s
        return self.compute_s * 1e3, waited_s * 1e3

    def took_part(
        self, pass_number: int, began_s: float, ended_s: float, batch_size: int, batch_tokens: int
    ) -> None:
        self.last_pass, self.batch_size, self.batch_tokens = pass_number, batch_size, batch_tokens
        self.started_s = began_s if self.started_s is None else self.started_s
        self.compute_s += ended_s - began_s


@dataclass(slots=True)
class DraftWork(_Work):
    """Feeds the call's tokens, then its own drafted tokens, one per pass, until the stop rule ends the block."""

    call: DraftCall = field(kw_only=True)
    proposed: list[Proposed] = field(default_factory=list)
    is_cut: bool = False

    def __post_init__(self) -> None:
        self.first_fed = self.call.keep_len
        self.tokens = list(self.call.feed)

    @property
    def entropies(self) -> tuple[float, ...]:
        """Entropies of the tokens drafted so far, in nats."""
        return tuple(one.entropy for one in self.proposed)

    @property
    def base_len(self) -> int:
        return self.call.keep_len + len(self.call.feed)

    @property
    def end(self) -> int:
        """Most tokens that the slot holds in the course of the call."""
        return self.base_len + max(self.call.rule.max_tokens - 1, 0)

    def next_input(self, chunk: int) -> StepInput | None:
        """None: complete."""
        left = self.tokens[self.done :]
        if len(left) > chunk:
            return self._input(left[:chunk], 0)
        drafts_on = self.call.rule.max_tokens and not self.is_cut
        return self._input(left, 1 if drafts_on else 0) if left else None

    def take(self, new: Result) -> None:
        """Append a drafted token. It is fed next, unless it ends the block: the last drafted token is never fed."""
        assert isinstance(new, Proposed), new
        self.proposed.append(new)
        if not stops(self.call.rule, self.entropies, new.max_prob):
            self.tokens.append(new.token)

    def is_overdue(self, now_s: float) -> bool:
        """Whether the session would not wait for another token; the first one is always drafted."""
        return bool(self.proposed) and now_s - self.submitted_s > self.call.patience_s

    def cut(self) -> None:
        """End the block with the tokens drafted so far. After a preemption they are only fed again."""
        self.is_cut = True
        del self.tokens[self.num_resumed + len(self.call.feed) + max(0, len(self.proposed) - 1) :]

    def answer(self) -> DraftBlock:
        drafted = self.proposed
        distributions = None
        if drafted and self.call.rule.row_len:
            distributions = DraftDistributions(
                np.stack([p.row_ids for p in drafted if p.row_ids is not None]),
                np.stack([p.row_logprobs for p in drafted if p.row_logprobs is not None]),
            )
        compute_ms, queue_ms = self.timings_ms()
        return DraftBlock(
            session=self.call.session,
            epoch=self.call.epoch,
            base_len=self.base_len,
            tokens=tuple(p.token for p in drafted),
            entropies=self.entropies,
            distributions=distributions,
            compute_ms=compute_ms,
            queue_ms=queue_ms,
            confidences=tuple(p.max_prob for p in drafted),
            runner_ups=self._runner_ups(),
        )

    def _runner_ups(self) -> tuple[int, ...]:
        if not self.call.rule.want_runner_ups:
            return ()
        others = tuple(p.other for p in self.proposed if p.other is not None)
        assert len(others) == len(self.proposed), (others, self.proposed)
        return others


@dataclass(slots=True)
class EarlyExitWork(DraftWork):
    """A draft call on the target's own slot: it feeds only what the slot lacks, and leaves the cache as it was."""

    leave: Exit = field(kw_only=True)

    def __post_init__(self) -> None:
        self.first_fed = self.slot.cached_len
        if self.call.keep_len > self.slot.valid_len:
            raise StaleCache(self.call.session, self.call.keep_len, self.slot.valid_len)
        wanted = (
            self.call.rule.max_tokens > 0 and not self.slot.evicted
        )  # only a verify call feeds all layers
        self.tokens = list(self.call.feed[self.first_fed - self.call.keep_len :]) if wanted else []
        self.slot.shallow_from = self.first_fed

    @property
    def num_layers(self) -> int:
        return self.leave.layer

    def take(self, new: Result) -> None:
        """Also end the block at the exit's block length, or below its confidence floor."""
        DraftWork.take(self, new)
        drafted = self.proposed[-1]
        surely = len(self.proposed) < self.leave.length and drafted.max_prob >= self.leave.confidence_floor
        if not surely and not stops(self.call.rule, self.entropies, drafted.max_prob):
            self.tokens.pop()  # never fed

    def cut(self) -> None:
        """As ``DraftWork.cut``; what the slot lacked has been fed before the first token was drafted."""
        del self.tokens[self.done :]

    def preempted(self) -> list[int]:
        """The block ends here; a verify call feeds the slot's tokens again, through all layers."""
        kept, self.first_fed = self.slot.tokens[: self.first_fed], 0
        self.tokens, self.done = [], 0
        return kept

    def done_with(self) -> None:
        """Roll back what was fed."""
        self.slot.cut(self.first_fed)
        self.slot.shallow_from = None


@dataclass(slots=True)
class VerifyWork(_Work):
    """Feeds the call's tokens in chunks; the last input holds the block and all positions to judge."""

    call: VerifyCall = field(kw_only=True)
    judged: Judged | None = None
    block_len: int | None = None  # length of the block after the verification budget cut it
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first_fed = self.call.keep_len
        self.tokens = [*self.call.feed, *self.call.block]

    @property
    def base_len(self) -> int:
        return self.call.keep_len + len(self.call.feed)

    @property
    def end(self) -> int:
        """Most tokens that the slot holds in the course of the call."""
        return self.base_len + len(self.call.block)

    def preempted(self) -> list[int]:
        self.prompt_logprobs.clear()
        return _Work.preempted(self)

    def next_input(self, chunk: int) -> StepInput | None:
        """None: complete."""
        left = self.tokens[self.done :]
        num_judged = len(self.call.block) + 1
        if len(left) > max(chunk, num_judged):
            left, num_judged = left[: min(chunk, len(left) - num_judged)], 0
        return self._input(left, num_judged, self._num_scored(len(left) - num_judged)) if left else None

    def cut_block(self, length: int) -> None:
        """Judge only the first ``length`` tokens of the block; no token of the block may have been fed yet."""
        call = self.call
        if length >= len(call.block):
            return
        kept = (
            DraftDistributions(call.distributions.ids[:length], call.distributions.logprobs[:length])
            if call.distributions and length
            else None
        )
        self.call, self.block_len = replace(call, block=call.block[:length], distributions=kept), length
        del self.tokens[self.num_resumed + len(call.feed) + length :]

    @property
    def scores_prompt(self) -> bool:
        """Whether log-probabilities of the prompt are wanted, so that all of its tokens must be computed."""
        return self.slot.prompt_logprobs is not None and self.call.keep_len == 0

    def _num_scored(self, num_free: int) -> int:
        """All positions before those to judge, if the token after the first of them belongs to the prompt."""
        return num_free if self.scores_prompt and self.done + 1 < self.transform.answer_from else 0

    def scored_tokens(self, given: StepInput) -> Sequence[int]:
        """The prompt tokens that the input's scored positions predict, in order."""
        return self.tokens[: self.transform.answer_from][self.done + 1 : self.done + 1 + given.num_scored]

    def take(self, judged: Result) -> None:
        """Store the result and roll back the rejected part of the block."""
        assert isinstance(judged, Judged), judged
        self.judged = judged
        self.slot.cut(self.base_len + judged.num_accepted)

    def answer(self) -> Verdict:
        judged = self.judged
        assert judged is not None, "answered before it was judged"
        compute_ms, queue_ms = self.timings_ms()
        return Verdict(
            session=self.call.session,
            epoch=self.call.epoch,
            base_len=self.base_len,
            num_accepted=judged.num_accepted,
            next_token=judged.next_token,
            relaxed=judged.relaxed,
            exact_ok=judged.exact_ok,
            distances=judged.distances,
            logprobs=judged.logprobs,
            prompt_logprobs=tuple(self.prompt_logprobs),
            distortion=judged.distortion,
            block_len=self.block_len,
            cached_tokens=self.num_found,
            compute_ms=compute_ms,
            queue_ms=queue_ms,
            batch_size=self.batch_size,
            batch_tokens=self.batch_tokens,
        )


Work = DraftWork | VerifyWork


def wants_runner_ups(works: Iterable[DraftWork]) -> bool:
    """Whether any call wants runner-up tokens."""
    return any(work.call.rule.want_runner_ups for work in works)
