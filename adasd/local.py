"""Speculative decoding in one process, over the same session machine as the service; no Ray needed.

from adasd import LocalPair
pair = LocalPair.load("models/demo/target", "models/demo/draft")
answer = pair.chat("Tell a short story set in the harbor. It needs Ana, Tom and a map.", mode="adaptive")
print(answer.text, answer.report.num_accepted_tokens, "of", answer.report.num_draft_tokens)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol

from adasd.config import EngineConfig, SpeculationConfig
from adasd.control import draft_sources
from adasd.control.controller import Controller, EffectiveSpeculation, SessionController
from adasd.drafters.lookups import Lookups, nothing_drafted
from adasd.errors import ConfigError, InvalidRequest
from adasd.ports import Decode, Engine
from adasd.requests import Mode, SamplingParams, SpeculationOptions
from adasd.results import Chunk, Complete, EmittedToken, FinishReason, SpeculationReport, TokenLogprob, Usage
from adasd.rounds import CallFailed, DraftBlock, DraftCall, OpenCall, RoundCompleted, Verdict, VerifyCall
from adasd.session.events import (
    Action,
    AskDraft,
    AskPlan,
    AskVerify,
    AttachTarget,
    DraftAnswered,
    DraftAttached,
    DraftLeft,
    Emit,
    Event,
    Finish,
    Learn,
    Planned,
    TargetAnswered,
    TargetAttached,
)
from adasd.session.opening import check_length, open_call
from adasd.session.protocol import begin, step
from adasd.session.report import complete
from adasd.session.state import Phase, Terms
from adasd.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its text, its tokens with provenance, and its figures."""

    text: str
    tokens: tuple[EmittedToken, ...]
    finish_reason: FinishReason
    usage: Usage
    report: SpeculationReport
    prompt_logprobs: tuple[TokenLogprob, ...] = ()  # of the prompt's tokens from the second on, if asked for

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)


class LocalPair:
    """A target and its drafts in this process. Not for use by several threads at once.

    ``draft`` is the source ``model`` (None: there is none), ``drafts`` are further models by name. What is learned
    from a round's times is learned from those of ``as_timed``.
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
    ) -> None:
        self.target, self.draft, self.decode, self.eos_ids = target, draft, decode, eos_ids
        self.tokenizer, self.as_timed = tokenizer, as_timed
        self.drafts = {**({draft_sources.MODEL: draft} if draft is not None else {}), **(drafts or {})}
        config = speculation or SpeculationConfig()
        own = (draft_sources.SELF,) if target.drafts_itself else ()
        if own and self.drafts:
            raise ConfigError("a target with early_exit drafts for itself; it takes no draft model beside it")
        self.controller = Controller(config, own or tuple(self.drafts))
        self.lookups = Lookups(config.recent_tokens)
        self._names = (f"local-{number}" for number in count())

    @classmethod
    def load(
        cls,
        target: str,
        draft: str | None = None,
        *,
        dtype: str = "auto",
        device: str = "auto",
        num_threads: int = 1,
        speculation: SpeculationConfig | None = None,
        prefix_cache: bool = True,
        drafts: Mapping[str, str] | None = None,
        early_exit: bool = False,
    ) -> LocalPair:
        """Load a pair of Hugging Face causal language models by folder or id; raises ConfigError.

        ``drafts`` names further draft models, for ``speculation.draft``; with ``early_exit`` the target drafts
        for itself, without any.

        ``prefix_cache``: what earlier answers computed for the beginning of a prompt is used again.
        """
        from adasd.engine.engine import TorchEngine
        from adasd.engine.loading.vocabulary import check_vocabularies

        config = EngineConfig(
            target,
            dtype=dtype,
            device=device,
            num_threads=num_threads,
            num_slots=4,
            prefix_cache=prefix_cache,
            early_exit=early_exit,
        )
        own = replace(config, early_exit=False)
        models = {**({draft_sources.MODEL: draft} if draft is not None else {}), **(drafts or {})}
        for model in models.values():
            check_vocabularies(target, model)
        tokenizer = Tokenizer.load(target)
        target_engine = TorchEngine.from_config(config)
        engines = {  # none must propose what the target does not know
            name: TorchEngine.from_config(replace(own, model=model), vocab_limit=target_engine.vocab_size)
            for name, model in models.items()
        }
        return cls(
            target_engine,
            engines.pop(draft_sources.MODEL, None),
            tokenizer.decode,
            tokenizer.eos_ids,
            speculation,
            tokenizer,
            engines,
        )

    # ----------------------------------------------------------------- answers

    def chat(self, message: str, **options: object) -> Answer:
        """Answer one user message; options as for ``generate``."""
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
        """Answer token ids. ``sampling`` and ``speculation``, where given, replace the short options.

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
        on_round: Callable[[RoundCompleted], None] = lambda _: None,
    ) -> Iterator[Chunk | Complete]:
        """Chunks, one per verdict, then Complete. Closing the iterator gives both slots back."""
        if not prompt:
            raise InvalidRequest("the prompt has no tokens", "prompt")
        check_length(len(prompt), sampling.max_tokens, self.target.max_context)
        terms = Terms(next(self._names), tuple(prompt), sampling, self.eos_ids, self.decode)
        opening = open_call(terms.session, sampling, len(prompt), self.eos_ids)
        effective = self.controller.effective(speculation, opening.transform)
        controller = self.controller.session(effective, opening.transform, prompt)
        return self._run(terms, opening, effective, controller, on_round)

    def _run(
        self,
        terms: Terms,
        opening: OpenCall,
        effective: EffectiveSpeculation,
        controller: SessionController,
        on_round: Callable[[RoundCompleted], None],
    ) -> Iterator[Chunk | Complete]:
        session, todo = begin(terms)
        events: list[Event] = []
        line: DraftLine | None = None
        try:
            if effective.mode is not Mode.OFF and session.phase is not Phase.FINISHED:
                line = self._line(controller.source, opening, controller.alone)
                events.append(DraftAttached())
            while True:
                for action in todo:
                    match action:
                        case Emit(chunk):
                            yield chunk
                        case Finish():
                            self.lookups.remember(session.committed[len(terms.prompt) :])
                            yield complete(session, effective.options, controller)
                            return
                        case AttachTarget():
                            self.target.open(opening)
                            events.append(TargetAttached())
                        case Learn(done):
                            if not done.prefill:
                                controller.learn(self.as_timed(done))
                            on_round(done)
                        case AskPlan(remaining_tokens=remaining):
                            other = controller.another_source(remaining)
                            if line is not None and other is not None:
                                line.close()
                                line = self._line(other, opening, controller.alone)
                                controller.use(other)
                                events += (DraftLeft(), DraftAttached())
                            events.append(self._answer(action, controller, line))
                        case _:
                            events.append(self._answer(action, controller, line))
                session, todo = step(session, events.pop(0))
        finally:
            self.target.close(terms.session)
            if line is not None:
                line.close()

    def _line(self, source: str, open_call: OpenCall, alone: bool) -> DraftLine:
        """This session's line to a draft source."""
        if source in draft_sources.LOOKUPS:
            return self.lookups.line(source, alone=alone)
        if source == draft_sources.SELF:
            return SelfLine(self.target)
        return EngineLine(self.drafts[source], open_call)

    def _answer(self, action: Action, controller: SessionController, line: DraftLine | None) -> Event:
        asked_s = time.perf_counter()
        match action:
            case AskPlan(remaining, num_emitted, num_relaxed):
                plan = controller.plan(remaining, num_emitted, num_relaxed)
                return Planned(plan.draft, plan.accept)
            case AskDraft(call):
                assert line is not None
                drafted = line.draft(call)
                return DraftAnswered(drafted, 1e3 * (time.perf_counter() - asked_s))
            case AskVerify(call):
                verdict = run_call(self.target, call)
                assert isinstance(verdict, Verdict)
                return TargetAnswered(verdict, 1e3 * (time.perf_counter() - asked_s))
        raise AssertionError(f"no answer to {action}")


class DraftLine(Protocol):
    """A session's line to a draft source in this process."""

    def draft(self, call: DraftCall) -> DraftBlock: ...
    def close(self) -> None: ...


class SelfLine:
    """Draft calls on the slot that the target's verdicts use, which is not this line's to close."""

    def __init__(self, target: Engine) -> None:
        self._target = target

    def draft(self, call: DraftCall) -> DraftBlock:
        """The target has read for its verdicts what it is to draft behind."""
        drafted = run_call(self._target, call) if call.rule.max_tokens else nothing_drafted(call)
        assert isinstance(drafted, DraftBlock)
        return drafted

    def close(self) -> None:
        """Nothing is held beyond this object."""


class EngineLine:
    """A slot on a draft engine, open until ``close``."""

    def __init__(self, engine: Engine, call: OpenCall) -> None:
        self._engine, self._session = engine, call.session
        engine.open(call)

    def draft(self, call: DraftCall) -> DraftBlock:
        drafted = run_call(self._engine, call)
        assert isinstance(drafted, DraftBlock)
        return drafted

    def close(self) -> None:
        self._engine.close(self._session)


def mode_of(name: str | None) -> Mode | None:
    """The mode of that name; InvalidRequest with what is possible."""
    try:
        return Mode(name) if name is not None else None
    except ValueError:
        possible = ", ".join(Mode)
        raise InvalidRequest(f"mode is {name!r}; possible are {possible}", "speculation.mode") from None


def run_call(engine: Engine, call: DraftCall | VerifyCall) -> DraftBlock | Verdict:
    """Submit one call and step until it is answered; raises the error that it failed with."""
    engine.submit(call)
    while True:
        for answer in engine.step():
            if isinstance(answer, CallFailed):
                raise answer.error
            return answer
