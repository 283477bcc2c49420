"""Speculative decoding in one process, over the same session machine as the service; no Ray needed.

from adasd import LocalPair
pair = LocalPair.load("models/demo/target", "models/demo/draft")
answer = pair.chat("Tell a short story set in the harbor. It needs Ana, Tom and a map.", mode="adaptive")
print(answer.text, answer.report.num_accepted_tokens, "of", answer.report.num_draft_tokens)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from adasd.config import EngineConfig, SpeculationConfig
from adasd.control.controller import Controller, EffectiveSpeculation, SessionController
from adasd.errors import ConfigError, InvalidRequest
from adasd.messages import (
    CallFailed,
    Chunk,
    Complete,
    DraftCall,
    Drafted,
    EmittedToken,
    FinishReason,
    Mode,
    OpenCall,
    RoundCompleted,
    SamplingParams,
    SpeculationOptions,
    SpeculationReport,
    TokenLogprob,
    Usage,
    Verdict,
    VerifyCall,
)
from adasd.ports import Decode, Engine
from adasd.session.events import (
    Action,
    AskDraft,
    AskPlan,
    AskVerify,
    AttachTarget,
    DraftAnswered,
    DraftAttached,
    Emit,
    Event,
    Finish,
    Learn,
    Planned,
    TargetAnswered,
    TargetAttached,
)
from adasd.session.machine import begin, step
from adasd.session.opening import check_length, open_call
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
    """A target and (unless None) a draft in this process. Not for use by several threads at once."""

    def __init__(
        self,
        target: Engine,
        draft: Engine | None,
        decode: Decode,
        eos_ids: frozenset[int],
        speculation: SpeculationConfig | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.target, self.draft, self.decode, self.eos_ids = target, draft, decode, eos_ids
        self.tokenizer = tokenizer
        self.controller = Controller(speculation or SpeculationConfig(), draft is not None)
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
    ) -> LocalPair:
        """Load a pair of Hugging Face causal language models by folder or id; raises ConfigError.

        ``prefix_cache``: what earlier answers computed for the beginning of a prompt is used again.
        """
        from adasd.engine.engine import TorchEngine
        from adasd.engine.loading import check_vocabularies

        config = EngineConfig(
            target,
            dtype=dtype,
            device=device,
            num_threads=num_threads,
            num_slots=4,
            prefix_cache=prefix_cache,
        )
        if draft is not None:
            check_vocabularies(target, draft)
        tokenizer = Tokenizer.load(target)
        target_engine, draft_engine = TorchEngine.from_config(config), None
        if draft is not None:  # it must not propose what the target does not know
            own = replace(config, model=draft)
            draft_engine = TorchEngine.from_config(own, vocab_limit=target_engine.vocab_size)
        return cls(
            target_engine,
            draft_engine,
            tokenizer.decode,
            tokenizer.eos_ids,
            speculation,
            tokenizer,
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
        effective = self.controller.effective(speculation)
        terms = Terms(next(self._names), tuple(prompt), sampling, self.eos_ids, self.decode)
        opening = open_call(terms.session, sampling, len(prompt), self.eos_ids)
        controller = self.controller.session(effective, opening.warp)
        return self._run(terms, opening, effective, controller, on_round)

    def _run(
        self,
        terms: Terms,
        opening: OpenCall,
        effective: EffectiveSpeculation,
        controller: SessionController,
        on_round: Callable[[RoundCompleted], None],
    ) -> Iterator[Chunk | Complete]:
        draft = self.draft if effective.mode is not Mode.OFF else None
        session, todo = begin(terms)
        events: list[Event] = []
        try:
            if draft is not None and session.phase is not Phase.FINISHED:
                draft.open(opening)
                events.append(DraftAttached())
            while True:
                for action in todo:
                    match action:
                        case Emit(chunk):
                            yield chunk
                        case Finish():
                            yield complete(session, effective, controller)
                            return
                        case AttachTarget():
                            self.target.open(opening)
                            events.append(TargetAttached())
                        case Learn(done):
                            if not done.prefill:
                                controller.learn(done)
                            on_round(done)
                        case _:
                            events.append(self._answer(action, controller))
                session, todo = step(session, events.pop(0))
        finally:
            self.target.close(terms.session)
            if draft is not None:
                draft.close(terms.session)

    def _answer(self, action: Action, controller: SessionController) -> Event:
        asked_s = time.perf_counter()
        match action:
            case AskPlan(remaining, num_emitted, num_relaxed):
                plan = controller.plan(remaining, num_emitted, num_relaxed)
                return Planned(plan.draft, plan.accept)
            case AskDraft(call):
                assert self.draft is not None
                drafted = run_call(self.draft, call)
                assert isinstance(drafted, Drafted)
                return DraftAnswered(drafted, 1e3 * (time.perf_counter() - asked_s))
            case AskVerify(call):
                verdict = run_call(self.target, call)
                assert isinstance(verdict, Verdict)
                return TargetAnswered(verdict, 1e3 * (time.perf_counter() - asked_s))
        raise AssertionError(f"no answer to {action}")


def mode_of(name: str | None) -> Mode | None:
    """The mode of that name; InvalidRequest with what is possible."""
    try:
        return Mode(name) if name is not None else None
    except ValueError:
        possible = ", ".join(Mode)
        raise InvalidRequest(f"mode is {name!r}; possible are {possible}", "speculation.mode") from None


def run_call(engine: Engine, call: DraftCall | VerifyCall) -> Drafted | Verdict:
    """Submit one call and step until it is answered; raises the error that it failed with."""
    engine.submit(call)
    while True:
        for answer in engine.step():
            if isinstance(answer, CallFailed):
                raise answer.error
            return answer
