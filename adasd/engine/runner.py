"""Forward passes over what the scheduler chose: logits, drafted tokens, verdicts.

A pass writes only to cache places past the valid length of each slot. So a failed pass is repeated in halves until
the call that cannot run is isolated.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain, groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.protocol import Forward
from adasd.engine.sampling.logits_processors import Positions, process
from adasd.engine.sampling.logprobs import score_prompt, with_logprobs
from adasd.engine.sampling.sampler import judge_blocks, not_finite, propose_next
from adasd.engine.sampling.to_host import Pending, fetch
from adasd.engine.sampling.verdicts import backend_of, choose_judge
from adasd.engine.scheduler import Scheduled
from adasd.engine.work import DraftWork, Judged, Proposed, Result, VerifyWork
from adasd.errors import AdasdError, DeviceFailure, RankLost
from adasd.results import TokenLogprob

_log = logging.getLogger(__name__)

BROKEN = "the model gave logits that are not finite; check its weights and dtype"


class StepResult(NamedTuple):
    """What one call got from a pass: None (a chunk of its prompt), a result, or an error."""

    scheduled: Scheduled
    result: Result | AdasdError | None
    scored: tuple[TokenLogprob, ...] = ()  # for the prompt tokens of this input


class ModelRunner:
    """One forward pass over one cache; ids from ``vocab_size`` on are never drafted or accepted."""

    def __init__(self, forward: Forward, cache: KVCache, vocab_size: int, generator: torch.Generator) -> None:
        self.forward, self.cache, self.vocab_size, self._generator = forward, cache, vocab_size, generator
        self._judge = choose_judge(forward.device, vocab_size)
        forward.prepare(cache, vocab_size)

    @property
    def verdict_backend(self) -> str:
        """As ``adasd.ports.Engine``."""
        return backend_of(self._judge)

    def run(self, scheduled: Sequence[Scheduled]) -> list[StepResult]:
        """One pass for all calls, or one per number of layers; passes over all layers come first."""
        by_depth = sorted(scheduled, key=lambda one: one.work.num_layers)
        groups = groupby(by_depth, key=lambda one: one.work.num_layers)
        return [result for _, group in groups for result in self._in_halves(list(group))]

    def can_draft_on(self, one: Scheduled) -> bool:
        """Whether this call can now draft several tokens in one multi-step draft."""
        drafter, work = self.forward.multi_step_draft, one.work
        return (
            drafter is not None
            and isinstance(work, DraftWork)
            and bool(one.input.num_logits)
            and drafter.can_draft(work)
        )

    def draft_on(self, drafting: Sequence[Scheduled], limit: int) -> list[list[Proposed | None]] | None:
        """A list per pass: one token per call, or None for a call that has ended. None: it failed, nothing changed."""
        drafter = self.forward.multi_step_draft
        assert drafter is not None
        works = [one.work for one in drafting if isinstance(one.work, DraftWork)]
        batch = ForwardBatch([one.input for one in drafting], self.cache.layout, self.forward.device)
        try:
            return drafter.draft(batch, self.cache, works, self.vocab_size, limit, self._generator)
        except Exception:  # any device error, as in _in_halves
            _log.exception("a multi-step draft failed; its calls draft step by step instead")
            self._free_memory()
            return None

    def _in_halves(self, scheduled: list[Scheduled]) -> list[StepResult]:
        try:
            return self._run_once(scheduled)
        except RankLost:
            raise
        except Exception as error:  # any device error: the engine and the other calls must go on
            self._free_memory()
            if len(scheduled) == 1:
                _log.exception("a forward pass failed; its call is answered with the error")
                reason = f"the forward pass over {len(scheduled[0].input.tokens)} tokens failed: {error}"
                failure = error if isinstance(error, AdasdError) else DeviceFailure(reason)
                return [StepResult(scheduled[0], failure)]
        middle = len(scheduled) // 2
        return self._in_halves(scheduled[:middle]) + self._in_halves(scheduled[middle:])

    def _free_memory(self) -> None:
        if self.forward.device.type == "cuda":
            torch.cuda.empty_cache()

    def _run_once(self, scheduled: list[Scheduled]) -> list[StepResult]:
        """One pass: the logits and the result of each call."""
        inputs = [one.input for one in scheduled]
        batch = ForwardBatch(inputs, self.cache.layout, self.forward.device, scheduled[0].work.num_layers)
        logits = self.forward(batch, self.cache)[:, : self.vocab_size]
        if len(logits) == 0:
            return [StepResult(one, None) for one in scheduled]
        spans, results = _spans(scheduled), dict[int, Result | AdasdError]()
        wanted = {
            i: Positions(one.work, one.input, slice(spans[i].stop - one.input.num_logits, spans[i].stop))
            for i, one in enumerate(scheduled)
            if one.input.num_logits
        }
        processed, refused = process(wanted, logits)
        results.update(refused)
        at = {i: one.span for i, one in wanted.items() if i not in refused}
        drafts = {i: work for i in at if isinstance(work := scheduled[i].work, DraftWork)}
        verifies = {i: work for i in at if isinstance(work := scheduled[i].work, VerifyWork)}
        pending: list[Pending[Any]] = [not_finite(logits)]
        if drafts:
            its_logits = _select([at[i] for i in drafts], processed)
            pending.append(propose_next(list(drafts.values()), its_logits, self._generator))
        if verifies:
            its_logits = _select([at[i] for i in verifies], processed)
            pending.append(judge_blocks(list(verifies.values()), its_logits, self._generator, self._judge))
        broken, *decided = fetch(pending)  # the only copy to the host, but for log-probabilities
        results.update(zip([*drafts, *verifies], chain.from_iterable(decided), strict=True))
        results.update({i: DeviceFailure(BROKEN) for i, span in enumerate(spans) if any(broken[span])})
        for i, work in verifies.items():
            judged = results[i]
            if not isinstance(judged, Judged):
                continue
            if self.forward.early_exit is not None:
                self.forward.early_exit.learn(at[i], logits[at[i]], judged)
            results[i] = with_logprobs(work, judged, logits[at[i]])
        return [
            StepResult(one, results.get(i), score_prompt(one.work, one.input, logits[spans[i]]))
            for i, one in enumerate(scheduled)
        ]


def _spans(scheduled: Sequence[Scheduled]) -> list[slice]:
    """The slice of the logits that belongs to each call."""
    spans, first = [], 0
    for one in scheduled:
        spans.append(slice(first, first + one.input.num_positions))
        first += one.input.num_positions
    return spans


def _select(spans: list[slice], logits: Tensor) -> Tensor:
    """The logits of these positions; a view if they cover all of them."""
    if sum(span.stop - span.start for span in spans) == len(logits):
        return logits
    return torch.cat([logits[span] for span in spans])
