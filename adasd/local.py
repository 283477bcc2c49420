"""Speculative decoding in one process, with the same runner as the service and without Ray.

from adasd import LocalPair
pair = LocalPair.load("models/demo/target", "models/demo/draft")
answer = pair.chat("Tell a short story set in the harbor. It needs Ana, Tom and a map.", mode="adaptive")
print(answer.text, answer.report.num_accepted_tokens, "of", answer.report.num_draft_tokens)
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import TypeVar

from adasd.config import EngineConfig, SpeculationConfig
from adasd.control import draft_sources
from adasd.control.controller import Controller
from adasd.drafters.lookups import Lookups
from adasd.errors import ConfigError, InvalidRequest, Superseded
from adasd.ports import Clock, Decode, Engine
from adasd.requests import GenerationRequest, Mode, SamplingParams, SpeculationOptions
from adasd.results import Chunk, Complete, EmittedToken, FinishReason, SpeculationReport, TokenLogprob, Usage
from adasd.rounds import CallFailed, DraftBlock, DraftCall, OpenCall, RoundCompleted, Verdict, VerifyCall
from adasd.session.runner import Runner, SharedParts
from adasd.session.slots import Observation, RunnerSettings
from adasd.session.tasks import InPlaceTasks, finished
from adasd.text.tokenizer import Tokenizer

R = TypeVar("R")

IN_PLACE = RunnerSettings(
    request_timeout_s=math.inf,
    draft_timeout_s=math.inf,
    reattach_s=math.inf,
    replaces_lost=False,
    asks_early=False,
)
"""No timeouts, no network and no replacements: an engine's error ends the answer unchanged."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its text, its tokens with provenance, and its statistics."""

    text: str
    tokens: tuple[EmittedToken, ...]
    finish_reason: FinishReason
    usage: Usage
    report: SpeculationReport
    prompt_logprobs: tuple[TokenLogprob, ...] = ()  # of the prompt's tokens from the second on, if requested

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)


class LocalPair:
    """A target and its drafts in this process. Not for use by several threads at once.

    ``draft`` is the source ``model`` (None: there is none), ``drafts`` are further models by name. With ``lookahead``
    every draft runs in a thread of its own and drafts ahead while the target judges, if the controller finds that this
    pays; it needs a core that the target does not use. ``as_timed`` maps each round to the one that the controller
    learns from, to replace its times. ``clock``, in seconds, times rounds.
    """

    def __init__(
        self,
        target: Engine,
        draft: Engine | None,
        decode: Decode,
        eos_ids: frozenset[int],
        speculation: SpeculationConfig | None = None,
        tokenizer: Tokenizer | None = None,
        drafts: Mapping[str, Engine] | None = None,
        as_timed: Callable[[RoundCompleted], RoundCompleted] = lambda done: done,
        *,
        lookahead: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        self.target, self.draft, self.decode, self.eos_ids = target, draft, decode, eos_ids
        self.tokenizer = tokenizer
        self.drafts = {**({draft_sources.MODEL: draft} if draft is not None else {}), **(drafts or {})}
        config = speculation or SpeculationConfig()
        config = replace(config, draft_ahead=config.draft_ahead and lookahead)
        own = (draft_sources.SELF,) if target.drafts_itself else ()
        if own and self.drafts:
            raise ConfigError("a target with early_exit drafts for itself; it takes no draft model beside it")
        self.controller = Controller(config, own or tuple(self.drafts))
        lookups = Lookups(config.recent_tokens)
        self._shared = SharedParts(
            self.controller, lookups, eos_ids, decode, target.max_context, IN_PLACE, as_timed, clock
        )
        self._placement = EnginePlacement(target, self.drafts, lookahead=lookahead)
        self._names = (f"local-{number}" for number in count())

    @classmethod
    def load(
        cls,
        target: str,
        draft: str | None = None,
        *,
        dtype: str = "auto",
        device: str = "auto",
        num_threads: int | None = None,
        speculation: SpeculationConfig | None = None,
        prefix_cache: bool = True,
        drafts: Mapping[str, str] | None = None,
        early_exit: bool = False,
        lookahead: bool = False,
        weights: str = "full",
        draft_weights: str = "full",
    ) -> LocalPair:
        """Load a pair of Hugging Face causal language models by folder or id; raises ConfigError.

        ``drafts`` names further draft models, for ``speculation.draft``; with ``early_exit`` the target drafts
        for itself, without any.

        ``prefix_cache``: reuse the cache of earlier prompts that begin with the same tokens.
        ``lookahead``: drafts run in threads of their own (LocalPair). ``weights`` of the target and ``draft_weights``:
        ``full`` or ``int8``, which makes other models of them (EngineConfig).
        """
        from adasd.engine.engine import TorchEngine
        from adasd.engine.loading.draft import load_draft

        config = EngineConfig(
            target,
            dtype=dtype,
            device=device,
            num_threads=num_threads,
            num_slots=4,
            prefix_cache=prefix_cache,
            early_exit=early_exit,
            weights=weights,
        )
        own = replace(config, early_exit=False, weights=draft_weights)
        models = {**({draft_sources.MODEL: draft} if draft is not None else {}), **(drafts or {})}
        tokenizer = Tokenizer.load(target)
        target_engine = TorchEngine.from_config(config)
        engines = {name: load_draft(replace(own, model=model), target) for name, model in models.items()}
        return cls(
            target_engine,
            engines.pop(draft_sources.MODEL, None),
            tokenizer.decode,
            tokenizer.eos_ids,
            speculation,
            tokenizer,
            engines,
            lookahead=lookahead,
        )

    # ----------------------------------------------------------------- answers

    def chat(self, message: str, **options: object) -> Answer:
        """Answer one user message; options as in ``generate``."""
        if self.tokenizer is None:
            raise ConfigError("this pair was made without a tokenizer; use generate(prompt_ids)")
        prompt = self.tokenizer.apply_chat_template([{"role": "user", "content": message}])
        return self.generate(prompt, **options)  # type: ignore[arg-type]

    def generate(
        self,
        prompt: Sequence[int],
        *,
        mode: str | None = None,
        max_tokens: int = 256,
        temperature: float = 0.0,
        sampling: SamplingParams | None = None,
        speculation: SpeculationOptions | None = None,
    ) -> Answer:
        """Answer a prompt of token ids. ``sampling`` and ``speculation``, if given, replace the short options.

        ``mode`` is off, exact or adaptive; None is exact with a draft and off without.
        """
        sampling = sampling or SamplingParams(max_tokens, temperature)
        speculation = speculation or SpeculationOptions(mode=mode_of(mode))
        text, end = "", None
        tokens: list[EmittedToken] = []
        prompt_logprobs: tuple[TokenLogprob, ...] = ()
        for event in self.stream(prompt, sampling, speculation):
            if isinstance(event, Chunk):
                text += event.text
                tokens.extend(event.tokens)
                prompt_logprobs += event.prompt_logprobs
            else:
                end = event
        assert end is not None
        return Answer(text, tuple(tokens), end.finish_reason, end.usage, end.speculation, prompt_logprobs)

    def stream(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams,
        speculation: SpeculationOptions,
        on_round: Callable[[RoundCompleted], object] = lambda _: None,
    ) -> Iterator[Chunk | Complete]:
        """Chunks, one per verdict, then Complete. Closing the iterator gives both slots back."""
        request = GenerationRequest(next(self._names), tuple(prompt), sampling, speculation)

        def tell(seen: Observation) -> None:
            if isinstance(seen, RoundCompleted):
                on_round(seen)

        tasks = InPlaceTasks()
        return in_place(Runner(request, self._shared, self._placement, tell, tasks).run(), tasks)


class EnginePlacement:
    """Opens slots on engines of this process; ``lookahead``: drafts run in threads of their own."""

    def __init__(self, target: Engine, drafts: Mapping[str, Engine], *, lookahead: bool) -> None:
        self._target, self._drafts = target, drafts
        self._threads = {name: ThreadPoolExecutor(1, f"draft {name}") for name in drafts if lookahead}

    @property
    def draft_names(self) -> tuple[str, ...]:
        return tuple(self._drafts)

    async def attach_target(self, call: OpenCall) -> EngineSlot:
        self._target.open(call)
        return EngineSlot(self._target, call.session)

    async def attach_draft(self, call: OpenCall, name: str | None = None) -> EngineSlot:
        name = name or self.draft_names[0]
        slot = EngineSlot(self._drafts[name], call.session, self._threads.get(name))
        await slot.do(partial(self._drafts[name].open, call))
        return slot


class EngineSlot:
    """A Drafter and Verifier over a slot of an engine; draft calls run in ``thread``, if there is one."""

    def __init__(self, engine: Engine, session: str, thread: ThreadPoolExecutor | None = None) -> None:
        self.lost: Future[str] = Future()
        self._engine, self._session, self._thread = engine, session, thread
        self._newest: float = 0  # epoch; infinite once released

    async def draft(self, call: DraftCall) -> DraftBlock:
        self._newest = call.epoch
        if self._thread is None:
            drafted = self._answer(call)
        else:
            drafted = await finished(self._thread.submit(self._answer, call))
        assert isinstance(drafted, DraftBlock)
        return drafted

    async def verify(self, call: VerifyCall) -> Verdict:
        self._newest = call.epoch
        verdict = self._answer(call)
        assert isinstance(verdict, Verdict)
        return verdict

    async def release(self) -> None:
        self._newest = math.inf
        await self.do(partial(self._engine.close, self._session))

    async def do(self, work: Callable[[], R]) -> R:
        return work() if self._thread is None else await finished(self._thread.submit(work))

    def _answer(self, call: DraftCall | VerifyCall) -> DraftBlock | Verdict:
        """Submit one call and step until its result is there; raises the error that it failed with."""
        self._engine.submit(call)
        while call.epoch >= self._newest:
            for answer in self._engine.step():
                if answer.session == call.session and answer.epoch == call.epoch:
                    if isinstance(answer, CallFailed):
                        raise answer.error
                    return answer
        raise Superseded(call.session, call.epoch)


def mode_of(name: str | None) -> Mode | None:
    """The mode of that name; InvalidRequest, which lists the modes, if there is none."""
    try:
        return Mode(name) if name is not None else None
    except ValueError:
        possible = ", ".join(Mode)
        raise InvalidRequest(f"mode is {name!r}; possible are {possible}", "speculation.mode") from None


def in_place(
    events: AsyncGenerator[Chunk | Complete, None], tasks: InPlaceTasks
) -> Iterator[Chunk | Complete]:
    """A runner's events without an event loop; closing the iterator closes the runner."""
    try:
        event = anext(events)
        while True:
            try:
                event.send(None)
            except StopIteration as found:
                yield found.value
                event = anext(events)
            else:
                tasks.wait()
    except StopAsyncIteration:
        return
    finally:
        with suppress(StopIteration):
            events.aclose().send(None)
