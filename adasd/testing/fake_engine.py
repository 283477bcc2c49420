"""An engine over a table: the whole contract of ``adasd.ports.Engine`` in plain Python, without torch.

Greedy, seeded and unseeded sampling, top-k distributions and relaxed acceptance behave as on the real engine (the
arithmetic is in ``adasd.specdec.verify_reference``). A step drafts one token per waiting draft call and answers
every verify call. For tests of sessions, workers and runners: failures can be planned.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from adasd.engine.cache.prefix_cache import PrefixCache
from adasd.engine.cache.slots import SlotTable
from adasd.engine.work import DraftWork, Judged, Proposed, StepInput, VerifyWork, Work
from adasd.errors import AdasdError, IllegalEvent, InvalidRequest
from adasd.methods.registry import acceptance_method, check_params, needs_distances
from adasd.ports import Clock
from adasd.results import TokenLogprob
from adasd.rounds import (
    CacheUse,
    CallFailed,
    DraftBlock,
    DraftCall,
    DraftDistributions,
    OpenCall,
    PrefixStats,
    SamplingTransform,
    Verdict,
    VerifyCall,
)
from adasd.specdec.random_source import GivenNumbers, RandomSource
from adasd.specdec.verify_reference import (
    coupled_choice,
    first_max,
    judge_one,
    masked,
    sampling_probs,
    softmax,
)
from adasd.testing.table_model import TableModel
from adasd.text.grammar import GrammarCompiler


class FakeEngine:
    """``adasd.ports.Engine`` over a TableModel.

    ``on_step`` runs in every step that has work (to advance a FakeClock, sleep or count).
    """

    def __init__(
        self,
        model: TableModel,
        num_slots: int = 4,
        max_context: int = 256,
        *,
        seed: int = 0,
        grammars: GrammarCompiler | None = None,
        clock: Clock = time.perf_counter,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self._slots = SlotTable(PrefixCache(num_slots, max_context))
        self._transforms: dict[str, SamplingTransform] = {}
        self._waiting: dict[str, Work] = {}
        self._failures: dict[str, AdasdError] = {}
        self._random, self._grammars = random.Random(seed), grammars
        self._clock, self._on_step = clock, on_step
        self._pass_number = 0

    # ----------------------------------------------------------------------- the port

    @property
    def num_slots(self) -> int:
        return self._slots.layout.num_slots

    @property
    def drafts_itself(self) -> bool:
        return False

    @property
    def num_free_slots(self) -> int:
        return self._slots.num_free

    @property
    def max_context(self) -> int:
        return self._slots.layout.max_context

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    @property
    def num_pending(self) -> int:
        return len(self._waiting)

    @property
    def verdict_backend(self) -> str:
        return "fake"

    @property
    def prefix_stats(self) -> PrefixStats:
        return self._slots.prefix_stats

    @property
    def cache_use(self) -> CacheUse:
        layout = self._slots.layout
        return CacheUse(layout.num_blocks, layout.max_context, layout.num_used_blocks)

    def prepare(self, call: OpenCall) -> None:
        if call.transform.grammar is not None and self._grammars is not None:
            self._grammars.matcher(call.transform.grammar)

    def open(self, call: OpenCall) -> None:
        grammar = call.transform.grammar
        if grammar is not None:
            refuse(self._grammars is None, "this engine has no tokenizer, which grammars need")
            self.prepare(call)
        slot = self._slots.open(call.session, call.max_len)
        slot.logprobs, slot.prompt_logprobs = call.logprobs, call.prompt_logprobs
        self._transforms[call.session] = call.transform

    def cached_len(self, session: str) -> int:
        return self._slots.get(session).cached_len

    def submit(self, call: DraftCall | VerifyCall) -> None:
        slot = self._slots.get(call.session)
        before = self._waiting.get(call.session)
        if before is not None and not (isinstance(call, DraftCall) and isinstance(before, DraftWork)):
            raise IllegalEvent(f"session {call.session} has a call waiting; one at a time")
        transform = self._transforms[call.session]
        self._check(call, transform, slot.max_len)
        self._slots.keep(call.session, call.keep_len)
        now_s = self._clock()
        if isinstance(call, DraftCall):
            self._waiting[call.session] = DraftWork(slot, transform, now_s, call=call)
        else:
            self._waiting[call.session] = VerifyWork(slot, transform, now_s, call=call)

    def step(self) -> list[DraftBlock | Verdict | CallFailed]:
        if not self._waiting:
            return []
        began_s = self._clock()
        self._pass_number += 1
        self._on_step()
        answers = [self._advance(work, began_s) for work in list(self._waiting.values())]
        return [answer for answer in answers if answer is not None]

    def close(self, session: str) -> None:
        for held in (self._waiting, self._transforms, self._failures):
            held.pop(session, None)
        self._slots.close(session)

    def check_integrity(self) -> None:
        self._slots.check_integrity()
        assert self._transforms.keys() >= self._waiting.keys(), self._waiting.keys()
        assert len(self._transforms) == self.num_slots - self.num_free_slots, self._transforms.keys()

    # ----------------------------------------------------------------------- for tests

    def fail_next(self, session: str, error: AdasdError) -> None:
        """Answer the session's waiting or next call with CallFailed."""
        self._failures[session] = error

    # ----------------------------------------------------------------------- one call, one step

    def _advance(self, work: Work, began_s: float) -> DraftBlock | Verdict | CallFailed | None:
        session = work.call.session
        if session in self._failures:
            del self._waiting[session]
            work.slot.cut(work.call.keep_len)
            return CallFailed(session, work.call.epoch, self._failures.pop(session))
        if isinstance(work, DraftWork) and work.is_overdue(began_s):
            work.cut()
        following = work.next_input(self.max_context)
        if following is not None:
            if not work.slot.is_placed:
                self._slots.place(work.slot, ())
            self._run(work, following)
            work.took_part(self._pass_number, began_s, self._clock(), 1, len(following.tokens))
        if work.next_input(self.max_context) is not None:
            return None
        del self._waiting[session]
        return work.answer()

    def _run(self, work: Work, given: StepInput) -> None:
        work.fed(given)
        tokens = work.slot.tokens
        if isinstance(work, VerifyWork):
            if work.scores_prompt:
                work.prompt_logprobs += self._score(
                    tokens, 1, work.transform.answer_from, work.slot.prompt_logprobs
                )
            work.take(self._judge(work, tokens))
        elif given.num_logits:
            work.take(self._propose(work, tokens))

    def _propose(self, work: DraftWork, tokens: list[int]) -> Proposed:
        logits = self._masked(tokens, work.transform)
        probs = softmax(logits)
        entropy = -sum(p * math.log(p) for p in probs if p > 0)
        row_len = min(work.call.rule.row_len, self.vocab_size)
        row_ids = sorted(range(self.vocab_size), key=lambda t: (-logits[t], t))[:row_len]
        # float32, as they are sent: the token is drawn from exactly these numbers
        row_logprobs = [float(np.float32(math.log(probs[t]))) if probs[t] > 0 else -math.inf for t in row_ids]
        if work.transform.greedy:
            token = first_max(logits)
        elif work.transform.seed is not None:
            token = coupled_choice(sampling_probs(logits, work.transform), work.transform.seed, len(tokens))
        else:
            token = self._draw(row_ids, sampling_probs(row_logprobs, work.transform))
        other = (
            second_choice(logits, work.transform, len(tokens), token)
            if work.call.rule.want_runner_ups
            else None
        )
        if not row_len:
            return Proposed(token, entropy, max(probs), other=other)
        sent = np.array(row_ids, np.int32), np.array(row_logprobs, np.float32)
        return Proposed(token, entropy, max(probs), *sent, other)

    def _judge(self, work: VerifyWork, tokens: list[int]) -> Judged:
        call, base_len = work.call, work.base_len
        num_drafted = len(call.block)
        verdict = judge_one(
            [self._masked(tokens[: base_len + i], work.transform) for i in range(num_drafted + 1)],
            call.block,
            call.distributions.ids.tolist() if call.distributions else None,
            call.distributions.logprobs.tolist() if call.distributions else None,
            work.transform,
            base_len,
            call.rule,
            self._random_source(num_drafted),
        )
        distances = verdict.distances if call.rule.want_distances else ()
        judged = Judged(
            verdict.num_accepted,
            verdict.next_token,
            verdict.relaxed,
            verdict.exact_ok,
            distances,
            distortion=verdict.distortion,
        )
        if work.slot.logprobs is None:
            return judged
        text = [*tokens[: base_len + verdict.num_accepted], verdict.next_token]
        return replace(judged, logprobs=self._score(text, base_len, len(text), work.slot.logprobs))

    def _score(
        self, text: Sequence[int], start: int, end: int, num_top: int | None
    ) -> tuple[TokenLogprob, ...]:
        """Log-probabilities of the tokens at positions ``[start, end)``."""
        scored = []
        for i in range(start, end):
            probs = softmax(self.model.logits(text[:i]))
            likeliest = sorted(range(self.vocab_size), key=lambda t: -probs[t])[: num_top or 0]
            top = tuple((token, math.log(probs[token])) for token in likeliest)
            scored.append(TokenLogprob(math.log(probs[text[i]]), top))
        return tuple(scored)

    def _masked(self, tokens: Sequence[int], transform: SamplingTransform) -> list[float]:
        """The masked logits after ``tokens``; a grammar is matched again from the start of the answer."""
        allowed = None
        if (
            transform.grammar is not None
            and self._grammars is not None
            and len(tokens) >= transform.answer_from
        ):
            matcher = self._grammars.matcher(transform.grammar)
            matcher.extend(tokens[transform.answer_from :])
            allowed = matcher.masks()[0].tolist()
        return masked(self.model.logits(tokens), tokens, transform, allowed)

    def _random_source(self, num_drafted: int) -> RandomSource:
        """Random numbers for one block; a proof overrides this."""
        return GivenNumbers(
            [self._random.random() for _ in range(num_drafted)],
            [self._random.expovariate(1.0) for _ in range(self.vocab_size)],
            [self._random.random() for _ in range(num_drafted)],
        )

    def _draw(self, ids: Sequence[int], probs: Sequence[float]) -> int:
        """Draw one of the ids; a proof overrides this."""
        return self._random.choices(ids, probs)[0]

    def _check(self, call: DraftCall | VerifyCall, transform: SamplingTransform, max_len: int) -> None:
        """Refuse the calls that the real engine refuses."""
        if isinstance(call, DraftCall):
            num_cached = call.keep_len + len(call.feed) + max(call.rule.max_tokens - 1, 0)
            fed: tuple[int, ...] = call.feed
            drafts = call.rule.max_tokens > 0
            refuse(drafts and not call.feed, "a draft call that drafts must feed at least one token")
            refuse(drafts and _sampled(transform) and call.rule.row_len < 1, "sampling drafts need row_len")
        else:
            num_cached = call.keep_len + len(call.feed) + len(call.block)
            fed = call.feed + call.block
            refuse(not call.feed, "a verify call must feed at least one token")
            if call.block:
                needed = _sampled(transform) or needs_distances(call.rule)
                refuse(call.distributions is None and needed, "the block needs its draft distributions")
                refuse(
                    _misshapen(call.distributions, len(call.block), self.vocab_size),
                    "the distributions do not fit the block",
                )
            if not call.rule.is_exact:
                check_params(acceptance_method(call.rule.name), call.rule.params)
        refuse(num_cached > max_len, f"{num_cached} tokens do not fit in a slot of {max_len}")
        refuse(any(not 0 <= t < self.vocab_size for t in fed), f"a token id is not in [0, {self.vocab_size})")


def second_choice(logits: Sequence[float], transform: SamplingTransform, position: int, token: int) -> int:
    """The runner-up token: from the draft's distribution, or the masked logits if that holds no other token."""
    rest = [-math.inf if t == token else logit for t, logit in enumerate(logits)]
    if max(rest) == -math.inf:
        return token
    if not transform.greedy and transform.seed is not None:
        probs = [0.0 if t == token else prob for t, prob in enumerate(sampling_probs(logits, transform))]
        if any(probs):
            return coupled_choice(probs, transform.seed, position)
    return first_max(rest)


def refuse(wrong: bool, why: str) -> None:
    """Raise InvalidRequest if ``wrong``."""
    if wrong:
        raise InvalidRequest(why)


def _sampled(transform: SamplingTransform) -> bool:
    return not transform.greedy and transform.seed is None


def _misshapen(sent: DraftDistributions | None, block_len: int, vocab_size: int) -> bool:
    if sent is None:
        return False
    ids = sent.ids
    fits = ids.ndim == 2 and ids.shape == sent.logprobs.shape and ids.shape[0] == block_len and ids.size > 0
    return not fits or bool(ids.min() < 0 or ids.max() >= vocab_size)
