"""The pairs that are traced: a target, its drafts, and the prompts of both splits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from adasd.config import EngineConfig
from adasd.drafters.ngram import NgramIndex
from adasd.drafters.suffix import SuffixAutomaton
from adasd.errors import ConfigError
from adasd.evaluate.families.ask import Split
from adasd.evaluate.questions import WORKLOADS, Question
from adasd.evaluate.replay import Costs
from adasd.evaluate.traces import TraceFile, Traces
from cluster.data import DEMO, packaged

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adasd.evaluate.collect import DraftSource
    from adasd.evaluate.made_drafts import Written
    from adasd.text.tokenizer import Tokenizer

TEMPERATURES = (0.0, 0.7, 1.0)
MODEL_COSTS = {f"c={ratio:g}": Costs(draft_ms=ratio) for ratio in (0.05, 0.1, 0.3)}
"""A drafted token costs this share of a target pass; a block is verified in the time of one token."""
SLOPING = {"sloping": Costs(draft_ms=0.07, verify_ms_per_token=0.1)}
"""Near the SmolLM2 pair on one CPU core, where each token of a block makes its pass longer."""
LOOKUP_COSTS = {"free": Costs(draft_ms=0.002)}
NUM_FITTED = 60
"""Texts that linear maps are fitted on."""
LESSON_TEMPERATURE = 0.7
"""At which the target writes what such drafts learn from."""


@dataclass(frozen=True, slots=True)
class Drafts:
    """One draft model."""

    model: str
    noise: float = 0.0  # on its weights, in their standard deviations


@dataclass(frozen=True, slots=True)
class FirstLayers:
    """The target's own first layers, a linear map, and its head."""

    num: int
    cost: float  # their weights as a share of the target's


@dataclass(frozen=True, slots=True)
class OuterLayers:
    """The target without its middle layers; a linear map in their place."""

    first: int
    last: int
    cost: float


@dataclass(frozen=True, slots=True)
class Counts:
    """An n-gram model of the target's texts."""

    order: int


Made = FirstLayers | OuterLayers | Counts
"""A draft made from the target and texts that it wrote."""


@dataclass(frozen=True, slots=True)
class TracedPair:
    """A target and its drafts; the look-ups ``suffix`` and ``ngram`` are traced with every target."""

    name: str
    target: str
    drafts: Mapping[str, Drafts]
    workloads: Mapping[Split, tuple[str, int, int]]  # workload, prompts per task, seed
    max_tokens: int
    most_followed: int | None = None  # rejected positions per text that are followed; None: all
    temperatures: tuple[float, ...] = TEMPERATURES
    made: Mapping[str, Made] = field(default_factory=dict)
    lessons: tuple[str, int, int] | None = None  # workload of the texts that ``made`` learn from

    def questions(self, split: Split) -> list[Question]:
        """The prompts of a split."""
        workload, num, seed = self.workloads[split]
        return WORKLOADS[workload](num, seed)

    def costs(self, source: str) -> dict[str, Costs]:
        """Cost settings of one of its sources, by name."""
        made = self.made.get(source)
        if isinstance(made, FirstLayers | OuterLayers):
            return {"by weights": Costs(draft_ms=made.cost)}
        return MODEL_COSTS | SLOPING if source in self.drafts else LOOKUP_COSTS


def demo_pair() -> TracedPair:
    """The demo target with its draft, a hopeless and a strong one."""
    target, draft = str(DEMO / "target"), str(DEMO / "draft")
    drafts = {
        "demo draft": Drafts(draft),
        "hopeless draft": Drafts(draft, 0.35),
        "strong draft": Drafts(target, 0.1),
    }
    return TracedPair(
        "demo", target, drafts, {Split.DEV: ("demo", 8, 1), Split.TEST: ("demo", 20, 0)}, max_tokens=160
    )


def real_pair(target: str) -> TracedPair:
    """SmolLM2-135M with our draft, a hopeless and a strong one, and drafts made from the target; twelve families."""
    draft = str(packaged("models/smollm2-draft"))
    return TracedPair(
        "SmolLM2",
        target,
        {
            "our draft": Drafts(draft),
            "hopeless draft": Drafts(draft, 0.35),
            "strong draft": Drafts(target, 0.05),
        },
        {Split.DEV: ("dev", 2, 0), Split.TEST: ("test", 5, 0)},
        max_tokens=48,
        most_followed=6,
        made={
            "own first layers": FirstLayers(4, cost=0.32),
            "middle cut": OuterLayers(4, 2, cost=0.37),
            "count model": Counts(3),
        },
        lessons=("dev", 10, 1),
    )


def traced(
    pair: TracedPair,
    questions: Sequence[Question],
    path: Path,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Traces:
    """The traces of a pair: from the file as far as it goes, then from the models. Raises ConfigError.

    ``on_batch`` is told how many batches are done, and how many there are.
    """
    from adasd.evaluate.collect import PROMPTS_PER_BATCH

    file = TraceFile(path, {**_about(pair), "prompts": [question.prompt for question in questions]})
    total = -(-len(questions) // PROMPTS_PER_BATCH)
    on_batch(file.num_batches, total)
    if file.num_batches < total:
        for batch in _collected(pair, questions, file.num_batches, path.with_name(f"texts-{pair.name}.json")):
            file.append(batch)
            on_batch(file.num_batches, total)
    return file.traces


def _about(pair: TracedPair) -> dict[str, object]:
    """What the traces depend on, without the folder of this machine."""
    fields = asdict(pair)
    for without in ("workloads", "made", "lessons"):
        fields.pop(without)
    if pair.made:
        fields["made"] = {name: [type(made).__name__, asdict(made)] for name, made in pair.made.items()}
    drafts = {name: [Path(draft.model).name, draft.noise] for name, draft in pair.drafts.items()}
    return {**fields, "target": Path(pair.target).name, "drafts": drafts}


def _collected(pair: TracedPair, questions: Sequence[Question], skip: int, texts: Path) -> Iterator[Traces]:
    """Batch by batch; ``texts`` keeps what the target wrote for the drafts made from it."""
    from adasd.engine.loading.model import load_model
    from adasd.engine.loading.vocabulary import check_vocabularies
    from adasd.evaluate.collect import LookupSource, ModelSource, collect
    from adasd.evaluate.measure import disturb
    from adasd.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(pair.target)
    if not tokenizer.has_chat_template:
        raise ConfigError(f"{pair.target} has no chat template, which the prompts need")
    sources: dict[str, DraftSource] = {}
    for name, draft in pair.drafts.items():
        check_vocabularies(pair.target, draft.model)
        model = load_model(EngineConfig(draft.model, dtype="float32"))
        disturb(model, draft.noise, seed=0)
        sources[name] = ModelSource(model, pair.most_followed)
    target = load_model(EngineConfig(pair.target, dtype="float32"))
    if pair.lessons is not None:
        written = _lessons(pair, target, tokenizer, texts)
        sources |= {name: _made(pair, made, written) for name, made in pair.made.items()}
    sources |= {"suffix": LookupSource(SuffixAutomaton), "ngram": LookupSource(NgramIndex)}
    yield from collect(
        target,
        sources,
        _prompts(tokenizer, questions),
        pair.temperatures,
        eos_ids=tokenizer.eos_ids,
        max_tokens=pair.max_tokens,
        skip=skip,
    )


def _prompts(tokenizer: Tokenizer, questions: Sequence[Question]) -> list[tuple[str, tuple[int, ...]]]:
    return [
        (question.group, tokenizer.apply_chat_template([{"role": "user", "content": question.prompt}]))
        for question in questions
    ]


def _lessons(pair: TracedPair, target: PreTrainedModel, tokenizer: Tokenizer, path: Path) -> Written:
    """What the target writes after the prompts of ``pair.lessons``; kept in a file."""
    import torch

    from adasd.evaluate.collect import PROMPTS_PER_BATCH, write

    assert pair.lessons is not None
    workload, num, seed = pair.lessons
    prompts = _prompts(tokenizer, WORKLOADS[workload](num, seed))
    about = [Path(pair.target).name, pair.max_tokens, [list(prompt) for _, prompt in prompts]]
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["about"] != about:
            raise ConfigError(f"{path} holds the texts of another run; name another folder, or remove it")
        return [(prompt, tokens) for prompt, tokens in known["texts"]]
    generator, texts = torch.Generator().manual_seed(seed), list[tuple[tuple[int, ...], tuple[int, ...]]]()
    with torch.inference_mode():
        for at in range(0, len(prompts), PROMPTS_PER_BATCH):
            batch = prompts[at : at + PROMPTS_PER_BATCH]
            for text in write(
                target, batch, (LESSON_TEMPERATURE,), tokenizer.eos_ids, pair.max_tokens, generator
            ):
                texts.append((text.prompt, text.tokens[: text.num_tokens]))
    path.write_text(json.dumps({"about": about, "texts": texts}), encoding="utf-8")
    return texts


def _made(pair: TracedPair, made: Made, written: Written) -> DraftSource:
    from adasd.engine.loading.model import load_model
    from adasd.evaluate.collect import ModelSource
    from adasd.evaluate.made_drafts import CountModel, CountSource, first_layers, outer_layers

    model = load_model(EngineConfig(pair.target, dtype="float32"))
    if isinstance(made, Counts):
        counts = CountModel(model.config.vocab_size, made.order)
        for prompt, tokens in written:
            counts.read([*prompt, *tokens])
        return CountSource(counts, pair.most_followed)
    texts = written[:NUM_FITTED]
    if isinstance(made, FirstLayers):
        return ModelSource(first_layers(model, made.num, texts), pair.most_followed)
    return ModelSource(outer_layers(model, made.first, made.last, texts), pair.most_followed)
