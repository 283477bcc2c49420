"""Many sessions, one model, one ragged forward pass per step.

Every ``step`` takes along what every waiting call needs next: one token or its feed for a draft call, feed and
block for a verify call, a piece of prompt. Sessions join and leave between steps. Prompts share a budget of
tokens per step in turn, so that running sessions keep their pace. Results are computed first and applied after
(``_compute``, ``_apply``), so that a pass that fails changes nothing but cache places behind every valid length;
it is repeated in halves until the call that cannot run is alone.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adasd.config import EngineConfig
from adasd.cost_table import CostTable
from adasd.engine.cache.kv_cache import KVCache, cache_bytes_per_token
from adasd.engine.cache.slots import NO_SLOT, SlotTable
from adasd.engine.checks import check_call
from adasd.engine.forward.batch import ForwardBatch, Row
from adasd.engine.forward.early_exit import EarlyWork, ShadowTokens
from adasd.engine.forward.fast_llama import FastLlama
from adasd.engine.forward.modules import Forward, check_agreement, reference_logits
from adasd.engine.forward.selection import choose_forward
from adasd.engine.forward.static_forward import StaticForward
from adasd.engine.loading.limits import check_architecture, resolve_max_context, resolve_num_slots
from adasd.engine.loading.model import Progress, load_model, silent
from adasd.engine.loading.warm_up import warm_up
from adasd.engine.sampling import multi_step_draft
from adasd.engine.sampling.logits_processors import Asked, shape
from adasd.engine.sampling.logits_state import LogitsState
from adasd.engine.sampling.logprobs import score_prompt, with_logprobs
from adasd.engine.sampling.sampler import judge_blocks, not_finite, propose_next
from adasd.engine.work import SHORT_FEED, DraftWork, Piece, Result, VerifyWork, Work
from adasd.errors import AdasdError, DeviceFailure, IllegalEvent
from adasd.ports import Clock
from adasd.results import TokenLogprob
from adasd.rounds import (
    CallFailed,
    DraftBlock,
    DraftCall,
    OpenCall,
    PrefixStats,
    SamplingTransform,
    Verdict,
    VerifyCall,
)
from adasd.specdec.budget import share, share_by_cost
from adasd.text.grammar import GrammarCompiler
from adasd.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

Answer = DraftBlock | Verdict | CallFailed

BROKEN = "the model gave logits that are not finite; check its weights and dtype"

CROWDED_SHARE = 4
"""Optimistic drafting yields while more than one in so many slots has committed work waiting."""

PREFILL_PER_ROW = 3
"""On a CPU a row of a pass takes as long as its tokens and so many prompt tokens more, in one long row, would, if
torch's operations compute it."""

LEAST_PIECE = 8
"""Prompt tokens that a pass of the kernels takes at least: they read keys and values once for so many."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A call, what it feeds in this pass, and the row of the pass that does it."""

    work: Work
    piece: Piece
    row: Row


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a pass gave one call: nothing yet (a piece of prompt), a result, or why it failed."""

    ready: _Ready
    result: Result | AdasdError | None
    scored: tuple[TokenLogprob, ...] = ()  # what the model thinks of the piece's share of the prompt


class TorchEngine:
    """``adasd.ports.Engine`` over a causal language model. Owned by one thread.

    ``vocab_limit`` forbids tokens from that id on (a draft must not propose what its target does not know).
    ``prefill_budget`` is the number of prompt tokens that one step takes of all sessions together.
    """

    def __init__(
        self,
        forward: Forward,
        config: EngineConfig,
        max_context: int,
        vocab_size: int,
        *,
        grammars: GrammarCompiler | None = None,
        prefill_budget: int | None = None,
        seed: int | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        torch.set_num_threads(config.num_threads)
        self.config, self.forward = config, forward
        num_slots = resolve_num_slots(
            config, cache_bytes_per_token(forward.layers, forward.dtype) * max_context
        )
        self.cache = KVCache(forward.layers, num_slots, max_context, forward.dtype, forward.device)
        self._slots = SlotTable(num_slots, max_context, config.prefix_cache)
        self._vocab_size, self._grammars = vocab_size, grammars
        self._transforms: dict[str, SamplingTransform] = {}
        self._waiting: dict[str, Work] = {}
        self._budget = prefill_budget or config.prefill_chunk * (1 if forward.device.type == "cpu" else 8)
        self._generator = torch.Generator(forward.device)
        self._generator.seed() if seed is None else self._generator.manual_seed(seed)
        self._clock = clock
        self._pass_number = 0
        self._shadow = ShadowTokens(len(forward.layers)) if config.early_exit else None
        self._cost = CostTable()  # of this engine's own passes
        if isinstance(forward, StaticForward):
            forward.record(self.cache, vocab_size)

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        config: EngineConfig,
        *,
        fast: bool | None = None,
        vocab_limit: int | None = None,
        grammars: GrammarCompiler | None = None,
        prefill_budget: int | None = None,
        seed: int | None = None,
        clock: Clock = time.perf_counter,
    ) -> TorchEngine:
        """An engine over a loaded model, which it takes over (attention exchanged, weights restacked).

        ``fast``: a hand-written forward (True: insist on it, None: where it fits, False: never).
        ``grammars``: compiles them for the model's tokenizer; without it requests with a grammar are refused.
        Raises ConfigError if the architecture is not supported.
        """
        torch.set_num_threads(config.num_threads)
        max_context = resolve_max_context(model.config, config.max_context)
        check_architecture(model.config, max_context)
        vocab_size = int(model.config.get_text_config().vocab_size)
        reference = reference_logits(model)
        forward = choose_forward(model, config, max_context, fast)
        check_agreement(forward, reference)
        return cls(
            forward,
            config,
            max_context,
            min(vocab_size, vocab_limit or vocab_size),
            grammars=grammars,
            prefill_budget=prefill_budget,
            seed=seed,
            clock=clock,
        )

    @classmethod
    def from_config(
        cls,
        config: EngineConfig,
        progress: Progress = silent,
        *,
        fast: bool | None = None,
        vocab_limit: int | None = None,
    ) -> TorchEngine:
        """Load ``config.model`` and build an engine over it; raises ConfigError with the reason."""
        model = load_model(config, progress)
        progress("preparing", 0.9)
        grammars = GrammarCompiler(
            lambda: Tokenizer.load(config.model, trust_remote_code=config.trust_remote_code)
        )
        engine = cls.from_model(model, config, fast=fast, vocab_limit=vocab_limit, grammars=grammars)
        progress("ready", 1.0)
        return engine

    # ----------------------------------------------------------------------- what the port asks for

    @property
    def num_slots(self) -> int:
        return self._slots.num_slots

    @property
    def num_free_slots(self) -> int:
        return self._slots.num_free

    @property
    def max_context(self) -> int:
        return self._slots.max_context

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def drafts_itself(self) -> bool:
        """Whether draft calls are answered by the first layers of this model, on the slots of its verdicts."""
        return self._shadow is not None

    @property
    def num_pending(self) -> int:
        return len(self._waiting)

    @property
    def prefix_stats(self) -> PrefixStats:
        """What the prefix cache was asked for and what it held."""
        return self._slots.prefix_stats

    def prepare(self, call: OpenCall) -> None:
        if call.transform.grammar is not None and self._grammars is not None:
            self._grammars.matcher(call.transform.grammar)

    def open(self, call: OpenCall) -> None:
        history = LogitsState.of(call.transform, self._vocab_size, self._grammars)
        slot = self._slots.open(call.session, call.max_len)
        slot.logits_state, slot.logprobs, slot.prompt_logprobs = history, call.logprobs, call.prompt_logprobs
        self._transforms[call.session] = call.transform

    def cached_len(self, session: str) -> int:
        return self._slots.get(session).cached_len

    def submit(self, call: DraftCall | VerifyCall) -> None:
        slot = self._slots.get(call.session)
        before = self._waiting.get(call.session)
        if before is not None and not (isinstance(call, DraftCall) and isinstance(before, DraftWork)):
            raise IllegalEvent(f"session {call.session} has a call waiting; one at a time")
        transform = self._transforms[call.session]
        check_call(call, transform, slot.max_len, self.forward.num_embeddings, self._vocab_size)
        now_s = self._clock()
        work: Work
        if isinstance(call, DraftCall) and self._shadow is not None:
            if before is not None:
                raise IllegalEvent(f"session {call.session} has a call waiting; one at a time")
            early = EarlyWork(slot, transform, now_s, call=call)
            early.leave = self._shadow.leave(early)
            self._waiting[call.session] = early
            return
        self._slots.keep(call.session, call.keep_len)
        if isinstance(call, DraftCall):
            work = DraftWork(slot, transform, now_s, call=call)
        else:
            work = VerifyWork(slot, transform, now_s, call=call)
        self._waiting[call.session] = work

    def close(self, session: str) -> None:
        self._waiting.pop(session, None)
        self._transforms.pop(session, None)
        self._slots.close(session)

    def warm_up(self) -> None:
        """Run the shapes that requests will hit once; every slot must be free, and is again after."""
        rows = self._slots.free_slots
        rows.reuse = False  # all of it is to be computed, and nothing of it to be found later
        try:
            warm_up(self, self.config.prefill_chunk)
        finally:
            rows.reuse = self.config.prefix_cache

    def check_integrity(self) -> None:
        self._slots.check_integrity()
        assert set(self._waiting) <= set(self._transforms), "a call waits without a slot"
        for session, work in self._waiting.items():
            slot = self._slots.get(session)
            assert slot is work.slot, (slot, work.slot)
            assert slot.tokens[work.first_fed :] == work.tokens[: work.done], (slot, work)
            assert slot.index != NO_SLOT or not work.done, (slot, work)
        num_open = self.num_slots - self.num_free_slots
        assert len(self._transforms) == num_open, (len(self._transforms), num_open)

    @torch.inference_mode()
    def step(self) -> list[Answer]:
        began_s = self._clock()
        self._pass_number += 1
        ready, answers = self._next_pieces()
        quick, ready = self._split(ready)
        if quick:
            drafted = self._burst(quick, alone=not ready)
            if drafted is None:
                ready = sorted(quick + ready, key=lambda one: one.row.attention_order)
            answers += drafted or []
            began_s = self._clock()
        if not ready:
            return answers
        outcomes = [outcome for group in _by_depth(ready) for outcome in self._compute(group)]
        ended_s = self._clock()
        num_tokens = sum(len(one.piece.tokens) for one in ready)
        self._cost = self._cost.add(num_tokens, 1e3 * (ended_s - began_s))
        for outcome in outcomes:
            outcome.ready.work.took_part(self._pass_number, began_s, ended_s, len(ready), num_tokens)
            answer = self._apply(outcome)
            if answer is not None:
                answers.append(answer)
        return answers

    # ----------------------------------------------------------------------- one step

    def _next_pieces(self) -> tuple[list[_Ready], list[Answer]]:
        """What this pass feeds, in the order of attention; and answers to calls that need no pass at all."""
        ready: list[_Ready] = []
        prefill: list[Work] = []
        answers: list[Answer] = []
        if self.config.verify_budget is not None:
            self._cut_blocks(self.config.verify_budget)
        for session, work in list(self._waiting.items()):
            piece = work.next_piece(self.config.prefill_chunk)
            if piece is None:
                del self._waiting[session]
                answers.append(work.answer())
            elif piece.is_prefill:
                prefill.append(work)
            else:
                ready.append(self._row(work, self.config.prefill_chunk))
        ready += self._take_turns(prefill, self._prefill_budget(ready))
        ready.sort(key=lambda one: one.row.attention_order)
        return ready, answers

    def _cut_blocks(self, budget: int) -> None:
        """Leave of the blocks that this pass judges what the budget holds (0: what is worth its time)."""
        works = [
            work
            for work in self._waiting.values()
            if isinstance(work, VerifyWork) and work.call.block and work.block_len is None
            and len(work.call.confidences) == len(work.call.block)
            and (piece := work.next_piece(self.config.prefill_chunk)) and piece.num_logits
        ]  # fmt: skip
        blocks = [work.call.confidences for work in works]
        lens = share(budget, blocks) if budget else share_by_cost(blocks, self._cost.at)
        for work, length in zip(works, lens, strict=True):
            work.cut_block(length)

    def _prefill_budget(self, running: list[_Ready]) -> int:
        """Prompt tokens of this pass; on a CPU fewer while others run, so that it takes about twice as long."""
        if not running or self.forward.device.type != "cpu":
            return self._budget
        num_tokens = sum(len(one.piece.tokens) for one in running)
        if multi_step_draft.drafter(self.forward) is not None:  # kernels: a row costs no more than its tokens
            return min(self._budget, max(LEAST_PIECE, num_tokens))
        return min(self._budget, max(SHORT_FEED, num_tokens + PREFILL_PER_ROW * len(running)))

    def _take_turns(self, prefill: list[Work], budget: int) -> list[_Ready]:
        """Those who waited longest for a piece of their prompt, as many as the budget holds, at least one.

        A prompt looks for a held beginning when its turn comes: of several that begin alike and come together
        each goes on from where the one before it got to.
        """
        chunk = min(self.config.prefill_chunk, budget)
        taken: list[_Ready] = []
        for work in sorted(prefill, key=lambda one: one.last_pass):
            if taken and budget <= 0:
                break
            ready = self._row(work, chunk)
            if not taken or len(ready.piece.tokens) <= budget:
                taken.append(ready)
                budget -= len(ready.piece.tokens)
        return taken

    def _row(self, work: Work, chunk: int) -> _Ready:
        """What an incomplete call feeds, and where; its session gets a row of the cache if it has none."""
        slot = work.slot
        if slot.index == NO_SLOT:
            self._place(work)
        piece = work.next_piece(chunk)
        assert piece is not None, "the last token of a prompt is never found"
        return _Ready(work, piece, Row(slot.index, slot.cached_len, piece.tokens, piece.num_rows))

    def _place(self, work: Work) -> None:
        """Give the call's session a row, and what other rows hold of its prompt; without that it is computed."""
        scores_prompt = isinstance(work, VerifyWork) and work.scores_prompt
        placement = self._slots.place(work.slot, () if scores_prompt else work.call.feed)
        if placement.copy_from is not None:
            try:
                self.cache.copy(placement.copy_from, placement.slot, placement.num_cached)
            except Exception:  # as in _compute: the device may do what it wants
                _log.exception("keys and values could not be copied; the prompt is computed instead")
                work.slot.cut(0)
                return
        work.found(placement.num_cached)

    def _compute(self, ready: list[_Ready]) -> list[_Outcome]:
        """Forward pass and results. Changes no state; a failing pass is repeated in halves."""
        try:
            return self._forward_and_sample(ready)
        except Exception as error:  # whatever the device does, the engine and the other calls live on
            if self.forward.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(ready) == 1:
                _log.exception("a forward pass failed; its call is answered with the error")
                reason = f"the forward pass over {len(ready[0].piece.tokens)} tokens failed: {error}"
                return [_Outcome(ready[0], error if isinstance(error, AdasdError) else DeviceFailure(reason))]
        middle = len(ready) // 2
        return self._compute(ready[:middle]) + self._compute(ready[middle:])

    def _forward_and_sample(self, ready: list[_Ready]) -> list[_Outcome]:
        batch = ForwardBatch.build([one.row for one in ready], self.max_context, self.forward.device)
        logits, exits = self._logits(batch, ready[0].work)
        if len(logits) == 0:
            return [_Outcome(one, None) for one in ready]
        spans = _logit_spans(ready)
        broken = not_finite(logits)
        results: dict[int, Result | AdasdError] = {
            i: DeviceFailure(BROKEN) for i, span in enumerate(spans) if any(broken[span])
        }
        asked = {
            i: Asked(one.work, one.piece, slice(spans[i].stop - one.piece.num_logits, spans[i].stop))
            for i, one in enumerate(ready)
            if one.piece.num_logits and i not in results
        }
        shaped, refused = shape(asked, logits)
        results.update(refused)
        laws = {i: one.rows for i, one in asked.items() if i not in refused}
        drafts = {i: work for i in laws if isinstance(work := ready[i].work, DraftWork)}
        verifies = {i: work for i in laws if isinstance(work := ready[i].work, VerifyWork)}
        if drafts:
            rows = _rows_of([laws[i] for i in drafts], shaped)
            proposals = propose_next(list(drafts.values()), rows, self._generator)
            results.update(zip(drafts, proposals, strict=True))
        if verifies:
            rows = _rows_of([laws[i] for i in verifies], shaped)
            judgements = judge_blocks(list(verifies.values()), rows, self._generator)
            for i, judged in zip(verifies, judgements, strict=True):
                if self._shadow is not None:
                    at_exits = [at[laws[i]] for at in exits]
                    self._shadow.learn(at_exits, logits[laws[i]], judged)
                results[i] = with_logprobs(verifies[i], judged, logits[laws[i]])
        return [
            _Outcome(one, results.get(i), score_prompt(one.work, one.piece, logits[spans[i]]))
            for i, one in enumerate(ready)
        ]

    def _logits(self, batch: ForwardBatch, first: Work) -> tuple[Tensor, list[Tensor]]:
        """Of a pass whose works are like the first one; and behind every exit, where the model drafts itself."""
        if self._shadow is None:
            return self.forward(batch, self.cache)[:, : self._vocab_size], []
        assert isinstance(self.forward, FastLlama)
        exits = self._shadow.exits
        depths = (first.leave.layer,) if isinstance(first, EarlyWork) else (*exits.layers, exits.num_layers)
        *early, last = self.forward.logits_at(batch, self.cache, depths)
        return last[:, : self._vocab_size], [at[:, : self._vocab_size] for at in early]

    def _split(self, ready: list[_Ready]) -> tuple[list[_Ready], list[_Ready]]:
        """Calls that can draft in a burst, and all others."""
        drafter = multi_step_draft.drafter(self.forward)
        if drafter is None:
            return [], ready
        quick: list[_Ready] = []
        others: list[_Ready] = []
        for one in ready:
            (quick if multi_step_draft.is_quick(drafter, one.work, one.piece) else others).append(one)
        return quick, others

    def _burst(self, quick: list[_Ready], alone: bool) -> list[Answer] | None:
        """Answers after drafting several tokens of every session, if nobody else has to wait; None: it failed."""
        drafter = multi_step_draft.drafter(self.forward)
        assert drafter is not None
        began_s = self._clock()
        works = [one.work for one in quick if isinstance(one.work, DraftWork)]
        batch = ForwardBatch.build([one.row for one in quick], self.max_context, self.forward.device)
        yields = self._crowded() and any(work.call.optimistic for work in works)
        limit = 1 if yields else multi_step_draft.LONGEST if alone else multi_step_draft.SHARED
        try:
            passes = drafter.draft(batch, self.cache, works, self._vocab_size, limit, self._generator)
        except Exception:  # as in _compute: the device may do what it wants
            _log.exception("a burst failed; its calls draft step by step instead")
            if self.forward.device.type == "cuda":
                torch.cuda.empty_cache()
            return None
        ended_s = self._clock()
        answers: list[Answer] = []
        for work in works:
            work.took_part(self._pass_number, began_s, ended_s, len(quick), len(quick))
        for proposals in passes:
            for one, proposed in zip(quick, proposals, strict=True):
                if proposed is None:
                    continue
                piece = one.work.next_piece(self.config.prefill_chunk)
                assert piece is not None, "a session drafted on although it was to stop"
                result = proposed if isfinite(proposed.entropy) else DeviceFailure(BROKEN)
                answer = self._apply(_Outcome(_Ready(one.work, piece, one.row), result))
                if answer is not None:
                    answers.append(answer)
        return answers

    def _apply(self, outcome: _Outcome) -> Answer | None:
        """Move the call on; its answer if that completed it."""
        work, result = outcome.ready.work, outcome.result
        if isinstance(result, AdasdError):
            return self._fail(work, result)
        if isinstance(work, VerifyWork):
            work.prompt_logprobs += outcome.scored
        work.fed(outcome.ready.piece)
        if result is not None:
            work.take(result)
            if isinstance(work, DraftWork) and work.call.optimistic and self._crowded():
                work.cut()
        if work.next_piece(self.config.prefill_chunk) is not None:
            return None
        del self._waiting[work.call.session]
        work.done_with()
        return work.answer()

    def _crowded(self) -> bool:
        """So much committed work waits that optimistic drafting stops after its first token."""
        committed = sum(
            not (isinstance(work, DraftWork) and work.call.optimistic) for work in self._waiting.values()
        )
        return committed > max(1, self.num_slots // CROWDED_SHARE)

    def _fail(self, work: Work, error: AdasdError) -> CallFailed:
        """Answer with the error; the slot keeps what it held before the call."""
        del self._waiting[work.call.session]
        work.slot.cut(work.first_fed)
        self.cache.scrub(work.slot.index, work.first_fed)
        return CallFailed(work.call.session, work.call.epoch, error)


def _by_depth(ready: list[_Ready]) -> list[list[_Ready]]:
    """Calls that leave at the same layer share a pass; those that go through all layers come first."""
    groups: dict[int, list[_Ready]] = {}
    for one in ready:
        depth = one.work.leave.layer if isinstance(one.work, EarlyWork) else 0
        groups.setdefault(depth, []).append(one)
    return [groups[depth] for depth in sorted(groups)]


def _logit_spans(ready: list[_Ready]) -> list[slice]:
    """Where each call's rows of logits lie."""
    spans, first = [], 0
    for one in ready:
        spans.append(slice(first, first + one.piece.num_rows))
        first += one.piece.num_rows
    return spans


def _rows_of(parts: list[slice], logits: Tensor) -> Tensor:
    """These rows of logits, in place if those are all."""
    if sum(span.stop - span.start for span in parts) == len(logits):
        return logits
    return torch.cat([logits[span] for span in parts])
