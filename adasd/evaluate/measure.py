"""Runs methods over a workload in this process and records each answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from adasd.config import MODEL, EngineConfig, SpeculationConfig
from adasd.evaluate.compared_methods import Method
from adasd.evaluate.questions import Question
from adasd.local import LocalPair
from adasd.requests import SamplingParams
from adasd.results import Chunk, SpeculationReport, TokenKind
from adasd.rounds import RoundCompleted

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """One answer. Rounds and times exclude the prefill, which yields the first token."""

    group: str
    correct: bool | None  # None: there is no judge
    tokens: tuple[int, ...]  # token ids of the whole answer
    num_rounds: int  # passes of the target after the prefill
    drafted_per_round: tuple[int, ...]
    accepted_per_round: tuple[int, ...]
    num_relaxed: int
    decode_s: float  # wall time
    cpu_s: float | None  # of the models' process; better than wall time on a shared CPU; None: unknown
    generation_threshold: float | None  # nats, at the answer's end
    acceptance_threshold: float | None  # Jensen-Shannon distance, at the answer's end
    distortion: float | None = 0.0  # expected total variation from relaxation, summed; None: unknown
    nll: float | None = (
        None  # negative log-likelihood under the target at temperature 1, nats; None: not asked for
    )

    @property
    def num_decoded(self) -> int:
        """Tokens from the rounds: all but the first."""
        return max(0, len(self.tokens) - 1)


@dataclass(frozen=True, slots=True)
class MethodRun:
    """One method at one temperature over the whole workload, answers in the workload's order."""

    method: Method
    temperature: float
    answers: tuple[AnswerRecord, ...]


def load_pair(
    target: str,
    draft: str,
    *,
    seed: int = 0,
    dtype: str = "auto",
    weights: str = "full",
    device: str = "auto",
    num_threads: int = 1,
    drafts: Mapping[str, str] | None = None,
    draft_noise: float = 0.0,
) -> LocalPair:
    """A pair of models by folder or id, with random numbers from ``seed``; raises ConfigError.

    ``draft_noise``: noise added to the draft's weights, in their standard deviations (makes a poor draft).
    """
    from adasd.engine.engine import TorchEngine
    from adasd.engine.loading.model import load_model
    from adasd.engine.loading.vocabulary import check_vocabularies
    from adasd.text.tokenizer import Tokenizer

    models = {MODEL: draft, **(drafts or {})}
    for model in models.values():
        check_vocabularies(target, model)
    config = EngineConfig(
        target, dtype=dtype, weights=weights, device=device, num_threads=num_threads, num_slots=2
    )
    tokenizer = Tokenizer.load(target)
    target_engine = TorchEngine.from_model(load_model(config), config, seed=seed)
    engines = {}
    for number, (name, model) in enumerate(models.items(), 1):
        own = replace(config, model=model)
        loaded = load_model(own)
        if name == MODEL:
            disturb(loaded, draft_noise, seed)
        engines[name] = TorchEngine.from_model(
            loaded, own, vocab_limit=target_engine.vocab_size, seed=seed + number
        )
    main = engines.pop(MODEL)
    return LocalPair(
        target_engine, main, tokenizer.decode, tokenizer.eos_ids, tokenizer=tokenizer, drafts=engines
    )


def disturb(model: PreTrainedModel, noise: float, seed: int) -> None:
    """Add normal noise to every weight; ``noise`` is in standard deviations of its tensor."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters() if noise else ():
            shift = torch.randn(weight.shape, generator=generator, dtype=torch.float32)
            weight.add_((noise * weight.float().std(correction=0).cpu() * shift).to(weight))


def run(
    pair: LocalPair,
    items: Sequence[Question],
    methods: Sequence[Method],
    temperatures: Sequence[float],
    *,
    max_tokens: int = 200,
    cost_ratio: float | None = None,
    scores: bool = False,
    on_answer: Callable[[Method, float], None] = lambda method, temperature: None,
) -> Iterator[MethodRun]:
    """Run every method at every temperature, each with nothing learned before. Yields each run when it is done.

    ``cost_ratio``: modelled time of a draft pass over a target pass, for methods that depend on times; then equal
    seeds give equal runs. None: times are measured. ``scores``: also record what the target thinks of each answer.
    """
    for temperature in temperatures:
        for method in methods:
            if not method.serves(temperature):
                continue
            others = {name: engine for name, engine in pair.drafts.items() if name != MODEL}
            fresh = LocalPair(
                pair.target,
                pair.draft,
                pair.decode,
                pair.eos_ids,
                SpeculationConfig(),
                pair.tokenizer,
                others,
                (lambda done: done) if cost_ratio is None else partial(as_modelled, cost_ratio),
            )
            answers = []
            for item in items:
                sampling = SamplingParams(max_tokens, temperature, logprobs=0 if scores else None)
                answers.append(_answer(fresh, item, method, sampling))
                on_answer(method, temperature)
            yield MethodRun(method, temperature, tuple(answers))


def as_modelled(cost_ratio: float, done: RoundCompleted) -> RoundCompleted:
    """The round with modelled times: 1 ms per target pass, ``cost_ratio`` ms per draft pass, no link delay."""
    draft_ms, drafted = cost_ratio * done.num_drafted, done.drafted
    verdict = replace(done.verdict, compute_ms=1.0, queue_ms=0.0)
    if drafted is not None:
        drafted = replace(drafted, compute_ms=draft_ms, queue_ms=0.0)
    return replace(done, drafted=drafted, verdict=verdict, draft_ms=draft_ms, verify_ms=1.0, overhead_ms=0.0)


def _answer(pair: LocalPair, item: Question, method: Method, sampling: SamplingParams) -> AnswerRecord:
    text, tokens, report, first = "", list[int](), None, None
    nll = 0.0
    for event in pair.stream(_prompt(pair, item.prompt), sampling, method.options):
        if isinstance(event, Chunk):
            first = first or (time.perf_counter(), time.process_time())
            text += event.text
            tokens.extend(token.id for token in event.tokens)
            nll -= sum(token.logprob.logprob for token in event.tokens if token.logprob is not None)
        else:
            report = event.speculation
    assert report is not None
    wall_s, cpu_s = first or (time.perf_counter(), time.process_time())
    return AnswerRecord(
        item.group,
        item.judge(text) if item.judge else None,
        tuple(tokens),
        report.num_rounds,
        report.drafted_per_round,
        report.accepted_per_round,
        _relaxed(report),
        time.perf_counter() - wall_s,
        time.process_time() - cpu_s,
        report.generation_threshold,
        report.acceptance_threshold,
        report.distortion,
        None if sampling.logprobs is None else nll,
    )


def _relaxed(report: SpeculationReport) -> int:
    return dict(report.kinds).get(TokenKind.RELAXED, 0)


def _prompt(pair: LocalPair, text: str) -> tuple[int, ...]:
    """The prompt's tokens, by the chat template if the model has one."""
    assert pair.tokenizer is not None
    if not pair.tokenizer.has_chat_template:
        return pair.tokenizer.encode(text)
    return pair.tokenizer.apply_chat_template([{"role": "user", "content": text}])
