"""The pairs that are traced: a target, its drafts, and the prompts of both splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adasd.config import EngineConfig
from adasd.drafters.ngram import NgramIndex
from adasd.drafters.suffix import SuffixAutomaton
from adasd.errors import ConfigError
from adasd.evaluate.families.ask import Split
from adasd.evaluate.questions import WORKLOADS, Question
from adasd.evaluate.replay import Costs
from adasd.evaluate.traces import TraceFile, Traces
from cluster.data import DEMO, packaged

TEMPERATURES = (0.0, 0.7, 1.0)
MODEL_COSTS = {f"c={ratio:g}": Costs(draft_ms=ratio) for ratio in (0.05, 0.1, 0.3)}
"""A drafted token costs this share of a target pass; a block is verified in the time of one token."""
SLOPING = {"sloping": Costs(draft_ms=0.07, verify_ms_per_token=0.1)}
"""Near the SmolLM2 pair on one CPU core, where each token of a block makes its pass longer."""
LOOKUP_COSTS = {"free": Costs(draft_ms=0.002)}


@dataclass(frozen=True, slots=True)
class Drafts:
    """One draft model."""

    model: str
    noise: float = 0.0  # on its weights, in their standard deviations


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

    def questions(self, split: Split) -> list[Question]:
        """The prompts of a split."""
        workload, num, seed = self.workloads[split]
        return WORKLOADS[workload](num, seed)

    def costs(self, source: str) -> dict[str, Costs]:
        """Cost settings of one of its sources, by name."""
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
    """SmolLM2-135M with our draft, and that draft made hopeless; the prompts of twelve families."""
    draft = str(packaged("models/smollm2-draft"))
    return TracedPair(
        "SmolLM2",
        target,
        {"our draft": Drafts(draft), "hopeless draft": Drafts(draft, 0.35)},
        {Split.DEV: ("dev", 4, 0), Split.TEST: ("test", 7, 0)},
        max_tokens=48,
        most_followed=6,
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
        for batch in _collected(pair, questions, file.num_batches):
            file.append(batch)
            on_batch(file.num_batches, total)
    return file.traces


def _about(pair: TracedPair) -> dict[str, object]:
    """What the traces depend on, without the folder of this machine."""
    fields = asdict(pair)
    fields.pop("workloads")
    drafts = {name: [Path(draft.model).name, draft.noise] for name, draft in pair.drafts.items()}
    return {**fields, "target": Path(pair.target).name, "drafts": drafts}


def _collected(pair: TracedPair, questions: Sequence[Question], skip: int) -> Iterator[Traces]:
    from adasd.engine.loading.model import load_model
    from adasd.engine.loading.vocabulary import check_vocabularies
    from adasd.evaluate.collect import LookupSource, ModelSource, collect
    from adasd.evaluate.measure import disturb
    from adasd.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(pair.target)
    sources: dict[str, ModelSource | LookupSource] = {}
    for name, draft in pair.drafts.items():
        check_vocabularies(pair.target, draft.model)
        model = load_model(EngineConfig(draft.model, dtype="float32"))
        disturb(model, draft.noise, seed=0)
        sources[name] = ModelSource(model, pair.most_followed)
    sources |= {"suffix": LookupSource(SuffixAutomaton), "ngram": LookupSource(NgramIndex)}
    if not tokenizer.has_chat_template:
        raise ConfigError(f"{pair.target} has no chat template, which the prompts need")
    prompts = [
        (question.group, tokenizer.apply_chat_template([{"role": "user", "content": question.prompt}]))
        for question in questions
    ]
    yield from collect(
        load_model(EngineConfig(pair.target, dtype="float32")),
        sources,
        prompts,
        pair.temperatures,
        eos_ids=tokenizer.eos_ids,
        max_tokens=pair.max_tokens,
        skip=skip,
    )
