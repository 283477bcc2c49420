"""Forward passes of fixed sizes, each recorded once: for devices that run faster than the host launches kernels.

Decode, verify and draft passes are rounded up to one of a few sizes (``padded``) and replay its recording
(``graphs``). Prompts, and sizes without a recording, run eagerly. Drafting stays on the device for several tokens
(``drafting_loop``).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.drafting_loop import DraftingLoop
from adasd.engine.forward.graphs import Recorder, Run
from adasd.engine.forward.padded import Padded, PassSize, all_sizes, power_of_two, sizes_for
from adasd.engine.forward.protocol import Forward, ForwardOver
from adasd.engine.sampling.multi_step_draft import rule_from_here, takes_largest
from adasd.engine.scheduler import SHARED_DRAFT
from adasd.engine.work import DraftWork, Proposed
from adasd.errors import ConfigError, DeviceFailure
from adasd.specdec.turns import TurnKind, kind_of_turn, num_changes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Turns:
    """Drafting in passes of one size."""

    loop: DraftingLoop
    runs: Mapping[TurnKind, Run]  # the pass, the choice of the tokens, and the stop rule


class StaticForward(ForwardOver):
    """Recorded passes over a paged cache, and drafts that stay on the device.

    ``insists``: a failed recording raises an error; otherwise passes that could not be recorded run eagerly.
    """

    def __init__(self, inner: Forward, recorder: Recorder, *, insists: bool = False) -> None:
        super().__init__(inner, "fixed sizes")
        self.multi_step_draft = self
        self._recorder, self._insists = recorder, insists
        self._cache: KVCache | None = None  # that was recorded
        self._vocab_size = 0
        self._logits = torch.empty(0)  # [tokens of the largest pass, V]
        self._steps: dict[PassSize, Padded] = {}
        self._runs: dict[PassSize, Run] = {}
        self._turns: dict[int, _Turns] = {}  # by number of tokens

    @property
    def num_recorded(self) -> int:
        """Recordings that passes can use."""
        return len(self._runs) + sum(len(turns.runs) for turns in self._turns.values())

    @torch.inference_mode()
    def prepare(self, cache: KVCache, vocab_size: int) -> None:
        """Record passes of every size over ``cache``; only ids below ``vocab_size`` are drafted.

        Sizes that fail run eagerly, with a warning; with ``insists`` they raise ConfigError. A DeviceFailure of the
        recorder is raised in any case: torch can't go on after it.
        """
        began_s = time.perf_counter()
        self._forget()
        self._cache, self._vocab_size = cache, vocab_size
        for size in all_sizes():
            try:
                self._record(size, cache)
            except DeviceFailure:
                raise
            except Exception as error:  # a device or a model's own code may raise anything
                if self._insists:
                    self._forget()
                    raise ConfigError(
                        f"compile is on, but {self.inner.name} cannot be recorded: {error}"
                    ) from error
                _log.warning("%s: passes of %s are not recorded: %s", self.inner.name, size, error)
        _log.info(
            "%s: %d recorded passes, %.1f s", self.name, self.num_recorded, time.perf_counter() - began_s
        )

    def _forget(self) -> None:
        self._cache, self._logits = None, torch.empty(0)
        for kept in (self._steps, self._runs, self._turns):
            kept.clear()

    def _record(self, size: PassSize, cache: KVCache) -> None:
        step, num_tokens = Padded(size, cache), size.num_tokens
        if not self._logits.numel():  # the largest pass comes first
            self._logits = torch.empty_like(self.inner(step, cache))
        logits_WV = self._logits[: size.num_wanted]
        run = self._recorder(self._pass_into(logits_WV, step, cache))
        self._steps[size], self._runs[size] = step, run
        if size.num_wanted == num_tokens <= power_of_two(cache.layout.num_slots):
            loop = DraftingLoop(step, self._vocab_size)
            runs = {kind: self._recorder(self._turn_of(loop, cache, kind)) for kind in TurnKind}
            self._turns[num_tokens] = _Turns(loop, runs)

    def _pass(self, step: Padded, cache: KVCache) -> Tensor:
        step.forget_masks()
        return self.inner(step, cache)

    def _pass_into(self, logits_WV: Tensor, step: Padded, cache: KVCache) -> Run:
        def run() -> None:
            logits_WV.copy_(self._pass(step, cache))

        return run

    def _turn_of(self, loop: DraftingLoop, cache: KVCache, kind: TurnKind) -> Run:
        def turn() -> None:
            loop.decide(self._pass(loop.step, cache)[:, : loop.vocab_size], kind)

        return turn

    def _turns_for(self, works: Sequence[DraftWork], cache: KVCache, vocab_size: int) -> _Turns:
        """Recorded turns if there are any for these arguments, else eager ones."""
        num_tokens = power_of_two(len(works))
        if cache is self._cache and vocab_size == self._vocab_size and num_tokens in self._turns:
            turns = self._turns[num_tokens]
            if turns.loop.serves(works):
                return turns
        changes = max(num_changes(work.transform) for work in works)
        entries = max(work.call.rule.row_len for work in works)
        step = Padded(PassSize(num_tokens, num_tokens), cache)
        loop = DraftingLoop(step, vocab_size, max(1, changes), max(1, entries))
        return _Turns(loop, {kind: self._turn_of(loop, cache, kind) for kind in TurnKind})

    def __call__(self, batch: ForwardBatch, cache: KVCache) -> Tensor:
        """The logits are valid until the next call."""
        if cache is not self._cache:
            return self.inner(batch, cache)
        sizes = [] if batch.num_layers else sizes_for(batch.inputs)
        size = next((one for one in sizes if one in self._runs), None)
        if size is None:
            return self.inner(batch, cache)
        self._steps[size].fill(batch.inputs)
        self._runs[size]()
        return self._logits[: len(batch.wanted_at)]

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
        turns = self._turns_for(works, cache, vocab_size)
        sends_nothing = all(takes_largest(work) and not work.call.rule.row_len for work in works)
        kind = kind_of_turn([work.transform for work in works], sends_nothing)
        loop, num = turns.loop, turns.loop.step.num_tokens
        logits_RV = first_NV.new_zeros(num, first_NV.shape[1])
        logits_RV[: len(works)] = first_NV
        loop.begin(works, batch.inputs, kind, generator)
        loop.decide(logits_RV, kind)
        for _ in range(limit - 1):
            turns.runs[kind]()
        return loop.drafted(limit, len(works))
