"""The engine: scheduler, runner and cache for many sessions over one model, with continuous batching.

``submit`` queues calls and ``step`` answers them; sessions join and leave between steps. The scheduler decides what a
step computes, the runner computes it, and only then are results applied: a failed pass costs only its own call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from math import isfinite

import torch
from transformers import PreTrainedModel

from adasd.config import EngineConfig
from adasd.engine.cache.layers import CacheNeeds
from adasd.engine.cache.pages import LONGEST_BLOCK
from adasd.engine.cache.slots import SlotTable
from adasd.engine.checks import check_call
from adasd.engine.forward.agreement import check_agreement, reference_logits
from adasd.engine.forward.attention import prepare_device
from adasd.engine.forward.protocol import Forward
from adasd.engine.forward.selection import choose_forward
from adasd.engine.loading.context import resolve_max_context
from adasd.engine.loading.limits import check_architecture, is_paged
from adasd.engine.loading.model import Progress, load_model, silent
from adasd.engine.loading.profile import profile
from adasd.engine.loading.quantised import quantisation
from adasd.engine.loading.sizing import make_layout
from adasd.engine.loading.warm_up import warm_up
from adasd.engine.parallel.channel import Channel
from adasd.engine.parallel.leader import leading
from adasd.engine.rooms import PageRooms
from adasd.engine.runner import BROKEN, ModelRunner, StepResult
from adasd.engine.sampling.logits_state import LogitsState
from adasd.engine.scheduler import PrefillBudget, Scheduled, Scheduler
from adasd.engine.work import DraftWork, EarlyExitWork, VerifyWork, Work
from adasd.errors import AdasdError, ConfigError, DeviceFailure, IllegalEvent
from adasd.ports import Clock
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
from adasd.specdec.verification_budget import SessionPrices
from adasd.text.grammar import GrammarCompiler
from adasd.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

WorkerReply = DraftBlock | Verdict | CallFailed


class TorchEngine:
    """``adasd.ports.Engine`` over a causal language model. Owned by one thread.

    Ids from ``vocab_size`` on are never drafted or accepted (a draft must not propose what its target does not know).
    ``prefill_budget`` is the number of prompt tokens that one step computes, over all sessions.
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
        torch.set_num_threads(1 if forward.has_threads else config.num_threads or 1)
        prepare_device(forward.device)
        self.config, self._grammars, self._clock = config, grammars, clock
        on_cpu = forward.device.type == "cpu"
        prefill_budget = prefill_budget or config.prefill_chunk * (1 if on_cpu else 8)
        layout = make_layout(
            config,
            max_context,
            CacheNeeds.of(forward.layers, forward.dtype),
            forward.device,
            lambda: profile(forward, prefill_budget, max_context),
        )
        self._longest_block = LONGEST_BLOCK if any(layout.windows) else None
        self._slots = SlotTable(layout)
        self.cache = forward.make_cache(layout)
        generator = torch.Generator(forward.device)
        generator.seed() if seed is None else generator.manual_seed(seed)
        self.runner = ModelRunner(forward, self.cache, vocab_size, generator)
        prefill = PrefillBudget(
            prefill_budget,
            forward.smallest_prefill if on_cpu else config.prefill_chunk,
            forward.sequence_cost if on_cpu else 0,
        )
        self._rooms = PageRooms(self._slots, self.cache)
        self._scheduler = Scheduler(config, layout.num_slots, prefill, self._place, self._rooms)
        self._transforms: dict[str, SamplingTransform] = {}
        self._pass_number = 0

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
        channel: Channel | None = None,
    ) -> TorchEngine:
        """An engine over a loaded model. It modifies the model: attention is replaced, weights are restacked.

        ``fast``: a hand-written forward pass (True: required, None: where it fits, False: never).
        ``vocab_limit``: tokens from this id on are never drafted or accepted.
        ``grammars``: compiles grammars for the model's tokenizer; without it, requests with a grammar are refused.
        ``channel``: to the other ranks that hold shards of the model; this is rank 0.
        Raises ConfigError if the architecture is not supported.
        """
        torch.set_num_threads(config.num_threads or 1)
        prepare_device(model.device)
        max_context = resolve_max_context(model.config, config.max_context)
        check_architecture(model.config, max_context)
        vocab_size = int(model.config.get_text_config().vocab_size)
        rounded = quantisation(model.config) is not None or model.dtype != torch.float32
        reference = reference_logits(model)
        forward = (
            choose_forward(model, config, max_context, fast)
            if channel is None
            else leading(model, config, channel)
        )
        check_agreement(forward, reference, paged=is_paged(config, forward.device), rounded=rounded)
        if forward.device.type == "cuda":
            torch.cuda.empty_cache()  # restacked weights leave blocks that fit nothing else
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
        channel: Channel | None = None,
    ) -> TorchEngine:
        """Load ``config.model`` and build an engine over it; raises ConfigError with the reason.

        ``channel``: to the other ranks, where ``tensor_parallel`` is above 1.
        """
        if (channel is not None) != (config.tensor_parallel > 1):
            raise ConfigError(
                f"tensor_parallel is {config.tensor_parallel}; in one process it is 1, and adasd serve starts ranks"
            )
        model = load_model(config, progress)
        if channel is not None:
            progress("waiting for the other ranks", 0.85)
            channel.start()
        progress("preparing", 0.9)
        grammars = GrammarCompiler(
            lambda: Tokenizer.load(config.model, trust_remote_code=config.trust_remote_code)
        )
        engine = cls.from_model(
            model, config, fast=fast, vocab_limit=vocab_limit, grammars=grammars, channel=channel
        )
        if engine.forward.device.type == "cuda":
            progress("warming up", 0.95)
            engine.warm_up()
        progress("ready", 1.0)
        return engine

    # ----------------------------------------------------------------------- the port

    @property
    def forward(self) -> Forward:
        return self.runner.forward

    @property
    def num_slots(self) -> int:
        return self._slots.layout.num_slots

    @property
    def num_free_slots(self) -> int:
        return self._slots.num_free

    @property
    def max_context(self) -> int:
        return self._slots.layout.max_context

    @property
    def vocab_size(self) -> int:
        return self.runner.vocab_size

    @property
    def verdict_backend(self) -> str:
        return self.runner.verdict_backend

    @property
    def drafts_itself(self) -> bool:
        return self.forward.early_exit is not None

    @property
    def num_pending(self) -> int:
        return len(self._scheduler.waiting)

    @property
    def prefix_stats(self) -> PrefixStats:
        return self._slots.prefix_stats

    @property
    def cache_use(self) -> CacheUse:
        layout = self._slots.layout
        block_len = layout.page_size or layout.max_context
        return CacheUse(layout.num_blocks, block_len, layout.num_used_blocks, self._rooms.num_preempted)

    def prepare(self, call: OpenCall) -> None:
        if call.transform.grammar is not None and self._grammars is not None:
            self._grammars.matcher(call.transform.grammar)

    def open(self, call: OpenCall) -> None:
        state = LogitsState.of(call.transform, self.vocab_size, self._grammars)
        slot = self._slots.open(call.session, call.max_len)
        slot.logits_state, slot.logprobs, slot.prompt_logprobs = state, call.logprobs, call.prompt_logprobs
        slot.prices = SessionPrices(self._scheduler.price, self._scheduler.price)
        self._transforms[call.session] = call.transform

    def cached_len(self, session: str) -> int:
        return self._slots.get(session).valid_len

    def submit(self, call: DraftCall | VerifyCall) -> None:
        slot, before = self._slots.get(call.session), self._scheduler.waiting.get(call.session)
        early_exit, drafts = self.forward.early_exit, isinstance(call, DraftCall)
        if before is not None and not (drafts and isinstance(before, DraftWork) and early_exit is None):
            raise IllegalEvent(f"session {call.session} has a call waiting; one at a time")
        transform = self._transforms[call.session]
        check_call(
            call,
            transform,
            slot.max_len,
            self.forward.num_embeddings,
            self.vocab_size,
            longest_block=self._longest_block,
        )
        work: Work
        if before is not None and before.num_resumed > slot.cached_len:
            self._slots.preempt(slot, before.prefix(0))  # it had not fed all of them again
        if isinstance(call, VerifyCall) or early_exit is None:
            self._slots.keep(call.session, call.keep_len)
            if isinstance(call, VerifyCall):
                work = VerifyWork(slot, transform, self._clock(), call=call)
            else:
                work = DraftWork(slot, transform, self._clock(), call=call)
            if slot.evicted:
                work.resume(slot.evicted)
                slot.evicted = []
        else:
            leave = early_exit.choose(call.rule.max_tokens)
            work = EarlyExitWork(slot, transform, self._clock(), call=call, leave=leave)
        self._scheduler.waiting[call.session] = work

    def close(self, session: str) -> None:
        if (work := self._scheduler.waiting.pop(session, None)) is not None:
            work.done_with()
        self._transforms.pop(session, None)
        self._slots.close(session)

    def warm_up(self) -> None:
        """Run each shape that requests will use once. Every slot must be free, and is free again afterwards."""
        layout = self._slots.layout
        layout.reuse = False  # compute everything, and leave nothing in the prefix cache
        try:
            warm_up(self, self.config.prefill_chunk)
        finally:
            layout.reuse = self.config.prefix_cache

    def check_integrity(self) -> None:
        self._slots.check_integrity()
        assert set(self._scheduler.waiting) <= set(self._transforms), "a call waits without a slot"
        for session, work in self._scheduler.waiting.items():
            slot = self._slots.get(session)
            assert slot is work.slot, (slot, work.slot)
            assert slot.tokens[work.first_fed :] == work.tokens[: work.done], (slot, work)
            assert not slot.evicted or work.next_input(1) is None, (slot, work)
            assert slot.is_placed or not work.done, (slot, work)
        num_open = self.num_slots - self.num_free_slots
        assert len(self._transforms) == num_open, (len(self._transforms), num_open)

    @torch.inference_mode()
    def step(self) -> list[WorkerReply]:
        self._pass_number += 1
        scheduled, complete = self._scheduler.next_step(self._clock())
        replies: list[WorkerReply] = [self._complete(work) for work in complete]
        drafting: list[Scheduled] = []
        others: list[Scheduled] = []
        for one in scheduled:
            (drafting if self.runner.can_draft_on(one) else others).append(one)
        drafted = self._draft_on(drafting, alone=not others) if drafting else None
        if drafted is not None:
            replies, scheduled = replies + drafted, others
        return replies + self._run(scheduled) if scheduled else replies

    # ----------------------------------------------------------------------- one step

    def _place(self, work: Work) -> None:
        """Give the call's session a slot, and copy what another slot holds of its prompt.

        If the copy fails, the prompt is computed instead.
        """
        scores_prompt = isinstance(work, VerifyWork) and work.scores_prompt
        prompt = () if scores_prompt else work.prefix(len(work.call.feed))
        placement = self._slots.place(work.slot, prompt)
        if placement.copy_from is not None:
            try:
                self.cache.copy_prefix(placement.copy_from, placement.slot, placement.num_cached)
            except Exception:  # any device error, as in a forward pass
                _log.exception("keys and values could not be copied; the prompt is computed instead")
                work.slot.cut(0)
                return
        work.found(placement.num_cached)

    def _run(self, scheduled: Sequence[Scheduled]) -> list[WorkerReply]:
        """Replies of the calls that this pass completed."""
        began_s = self._clock()
        results = self.runner.run(scheduled)
        ended_s, num_tokens = self._clock(), sum(len(one.input.tokens) for one in scheduled)
        self._scheduler.ran(num_tokens, 1e3 * (ended_s - began_s))
        for one in scheduled:
            one.work.took_part(self._pass_number, began_s, ended_s, len(scheduled), num_tokens)
        return [reply for result in results if (reply := self._apply(result)) is not None]

    def _draft_on(self, drafting: Sequence[Scheduled], *, alone: bool) -> list[WorkerReply] | None:
        """Like ``_run``, for a multi-step draft. None: it failed, and its calls draft token by token instead."""
        began_s = self._clock()
        num_open = self.num_slots - self.num_free_slots
        limit = self._scheduler.draft_limit(drafting, alone=alone, num_open=num_open)
        passes = self.runner.draft_on(drafting, limit)
        if passes is None:
            return None
        ended_s = self._clock()
        self._scheduler.drafted(len(drafting), len(passes), 1e3 * (ended_s - began_s))
        for one in drafting:
            one.work.took_part(self._pass_number, began_s, ended_s, len(drafting), len(drafting))
        replies = []
        for proposals in passes:
            for one, proposed in zip(drafting, proposals, strict=True):
                if proposed is None:
                    continue
                fed = self._scheduler.next_input(one.work)
                assert fed is not None, "a session drafted on although it was to stop"
                result = proposed if isfinite(proposed.entropy) else DeviceFailure(BROKEN)
                reply = self._apply(StepResult(Scheduled(one.work, fed), result))
                if reply is not None:
                    replies.append(reply)
        return replies

    def _apply(self, done: StepResult) -> WorkerReply | None:
        """Apply a result to its call; returns the reply if the call is complete."""
        work, result = done.scheduled.work, done.result
        if isinstance(result, AdasdError):
            return self._fail(work, result)
        if isinstance(work, VerifyWork):
            work.prompt_logprobs += done.scored
        work.fed(done.scheduled.input)
        if result is not None:
            work.take(result)
            if isinstance(work, DraftWork) and work.call.optimistic and self._scheduler.crowded:
                work.cut()
        if self._scheduler.next_input(work) is not None:
            return None
        del self._scheduler.waiting[work.call.session]
        return self._complete(work)

    def _complete(self, work: Work) -> WorkerReply:
        """The reply of a complete call."""
        work.done_with()
        if isinstance(work, VerifyWork):
            work.slot.prices = work.slot.prices.after_verdict(self._scheduler.price)
        return work.answer()

    def _fail(self, work: Work, error: AdasdError) -> CallFailed:
        """Reply with the error; the slot keeps what it held before the call."""
        del self._scheduler.waiting[work.call.session]
        work.done_with()
        work.slot.cut(work.first_fed)
        self.cache.scrub(work.slot.index, work.first_fed)
        self._slots.layout.cut(work.slot.index, work.first_fed)
        if work.num_resumed:
            self._slots.preempt(work.slot, work.prefix(0))
        else:
            self._slots.settle(work.slot)
        return CallFailed(work.call.session, work.call.epoch, error)
