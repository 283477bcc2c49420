"""A forward pass over fixed shapes, each recorded once: for devices that run faster than the host launches kernels.

Decode, verify and draft passes are rounded up to a bucket (``padded``) and replay its recording (``graphs``).
Prompts, and shapes without a recording, run eagerly. Drafting stays on the device for several tokens
(``drafting_loop``).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.drafting_loop import DraftingLoop, TurnSampler
from adasd.engine.forward.graphs import Recorder, Run
from adasd.engine.forward.padded import Bucket, Padded
from adasd.engine.forward.protocol import Forward, ForwardOver
from adasd.engine.sampling.multi_step_draft import rule_from_here, takes_largest
from adasd.engine.scheduler import SHARED_DRAFT
from adasd.engine.work import DraftWork, Proposed
from adasd.errors import ConfigError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Turns:
    """Drafting in one bucket."""

    loop: DraftingLoop
    greedy: Run  # pass and greedy choice
    logits: Callable[[], Tensor]  # the pass alone: [R, V]


class StaticForward(ForwardOver):
    """Recorded passes, and drafts that stay on the device.

    ``insists``: a failed recording raises an error; otherwise passes run without recordings.
    """

    def __init__(self, inner: Forward, recorder: Recorder, *, insists: bool = False) -> None:
        super().__init__(inner, "fixed shapes")
        self.multi_step_draft = self
        self._recorder, self._insists = recorder, insists
        self._cache: KVCache | None = None  # that was recorded
        self._vocab_size = 0
        self._logits = torch.empty(0)  # [tokens of the largest bucket, V]
        self._steps: dict[Bucket, Padded] = {}
        self._runs: dict[Bucket, Run] = {}
        self._turns: dict[Bucket, _Turns] = {}

    @property
    def num_recorded(self) -> int:
        """Recordings that passes can use."""
        return len(self._runs) + len(self._turns)

    @torch.inference_mode()
    def prepare(self, cache: KVCache, vocab_size: int) -> None:
        """Record every bucket of passes over ``cache``; only ids below ``vocab_size`` are drafted.

        If that fails, all passes run eagerly and a warning is logged; with ``insists`` it raises ConfigError.
        """
        began_s = time.perf_counter()
        self._forget()
        self._cache, self._vocab_size = cache, vocab_size
        try:
            for bucket in Bucket.all(cache):
                self._record(bucket, cache)
        except Exception as error:  # a device or a model's own code may raise anything
            self._forget()
            if self._insists:
                raise ConfigError(
                    f"compile is on, but {self.inner.name} cannot be recorded: {error}"
                ) from error
            _log.warning("%s runs without recorded passes: %s", self.inner.name, error)
            return
        _log.info(
            "%s: %d recorded passes, %.1f s", self.name, self.num_recorded, time.perf_counter() - began_s
        )

    def _forget(self) -> None:
        self._cache, self._logits = None, torch.empty(0)
        for kept in (self._steps, self._runs, self._turns):
            kept.clear()

    def _record(self, bucket: Bucket, cache: KVCache) -> None:
        step = Padded(bucket, cache)
        if not self._logits.numel():  # the largest bucket comes first
            self._logits = torch.empty_like(self.inner(step, cache))
        logits_TV = self._logits[: bucket.num_tokens]
        self._steps[bucket] = step
        self._runs[bucket] = self._recorder(self._pass_into(logits_TV, step, cache))
        if bucket.width == 1:
            loop = DraftingLoop(step)
            greedy = self._recorder(self._turn_of(loop, cache, self._vocab_size))
            self._turns[bucket] = _Turns(loop, greedy, self._logits_of(self._runs[bucket], logits_TV))

    def _pass(self, step: Padded, cache: KVCache) -> Tensor:
        step.forget_masks()
        return self.inner(step, cache)

    def _pass_into(self, logits_TV: Tensor, step: Padded, cache: KVCache) -> Run:
        def run() -> None:
            logits_TV.copy_(self._pass(step, cache))

        return run

    def _turn_of(self, loop: DraftingLoop, cache: KVCache, vocab_size: int) -> Run:
        def turn() -> None:
            loop.decide_greedily(self._pass(loop.step, cache)[:, :vocab_size])

        return turn

    def _logits_of(self, run: Run, logits_TV: Tensor) -> Callable[[], Tensor]:
        def logits() -> Tensor:
            run()
            return logits_TV

        return logits

    def _turns_for(self, bucket: Bucket, cache: KVCache, vocab_size: int) -> _Turns:
        """Recorded turns if there are any for these arguments, else eager ones."""
        if cache is self._cache and vocab_size == self._vocab_size and bucket in self._turns:
            return self._turns[bucket]
        loop = DraftingLoop(Padded(bucket, cache))
        return _Turns(loop, self._turn_of(loop, cache, vocab_size), lambda: self._pass(loop.step, cache))

    def __call__(self, batch: ForwardBatch, cache: KVCache) -> Tensor:
        """The logits are valid until the next call."""
        if cache is not self._cache:
            return self.inner(batch, cache)
        inputs = batch.inputs
        width = max(len(one.tokens) for one in inputs)
        bucket = Bucket.of(len(inputs), width, max(one.end for one in inputs), cache)
        if bucket is None or bucket not in self._runs:
            return self.inner(batch, cache)
        self._steps[bucket].fill(inputs)
        self._runs[bucket]()
        return self._wanted(batch, bucket)

    def _wanted(self, batch: ForwardBatch, bucket: Bucket) -> Tensor:
        at = [
            n * bucket.width + i
            for n, one in enumerate(batch.inputs)
            for i in range(len(one.tokens) - one.num_positions, len(one.tokens))
        ]
        if at == list(range(len(at))):
            return self._logits[: len(at)]
        places = torch.tensor(at, dtype=torch.long).to(self.device, non_blocking=True)
        return self._logits.index_select(0, places)

    # ----------------------------------------------------------------------- drafting

    def can_draft(self, work: DraftWork) -> bool:
        """Whether the next token depends only on logits and position: no penalties, no grammar."""
        return work.slot.logits_state is None

    def draft(
        self,
        batch: ForwardBatch,
        cache: KVCache,
        works: Sequence[DraftWork],
        vocab_size: int,
        limit: int,
        generator: torch.Generator,
    ) -> list[list[Proposed | None]]:
        """Up to ``limit`` tokens of every session, with one copy to the host at the end.

        A session that stops early goes on as padding. So drafts are short if signals may end blocks early.
        """
        rules = [rule_from_here(work) for work in works]
        limit = min(limit, max(rule.max_tokens for rule in rules))
        if any(
            math.isfinite(rule.entropy_ceiling) or rule.confidence_floor > 0 or rule.table for rule in rules
        ):
            limit = min(limit, SHARED_DRAFT)
        first_NV = self(batch, cache)[:, :vocab_size]
        longest = min(cache.layout.max_context, max(one.end for one in batch.inputs) + limit)
        bucket = Bucket.of(len(works), 1, longest, cache)
        assert bucket is not None, "single tokens of all slots have a bucket"
        turns = self._turns_for(bucket, cache, vocab_size)
        loop, num = turns.loop, bucket.num_sequences
        logits_RV = first_NV.new_zeros(num, first_NV.shape[1])
        logits_RV[: len(works)] = first_NV
        loop.begin(works, batch.inputs)
        if all(map(takes_largest, works)):
            loop.decide_greedily(logits_RV)
            for _ in range(limit - 1):
                turns.greedy()
            return loop.drafted(limit, len(works), None)
        sampler = TurnSampler(works, num, self.device, generator)
        loop.decide(logits_RV, sampler)
        for _ in range(limit - 1):
            loop.decide(turns.logits()[:, :vocab_size], sampler)
        return loop.drafted(limit, len(works), sampler)
