"""Mode exact changes nothing: greedy answers equal those of ``transformers``, seeded ones those of mode off.

On the demo pair in float32, through ``LocalPair``: runner, session, controller and engines are the service's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from adasd.config import EngineConfig, SpeculationConfig
from adasd.demo.tasks import Task, heldout
from adasd.engine.engine import TorchEngine
from adasd.local import LocalPair
from adasd.methods.registry import drafting_methods
from adasd.requests import Grammar, GrammarKind, Mode, SamplingParams, SpeculationOptions
from adasd.results import Chunk, FinishReason, TokenKind
from adasd.text.tokenizer import Tokenizer
from tests import pairs

pytestmark = pytest.mark.slow

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
DRAFTS = ("demo", "random", "target itself")
POLICIES = tuple(method.name for method in drafting_methods())
SOURCES = ("model", "random", "ngram", "suffix", "auto")
BLOCKS = (1, 5, 16)
MAX_TOKENS = 96
ALWAYS = SpeculationConfig(bypass=False)
"""Drafts are used whatever they cost, however busy the machine is."""
NUM_PROMPTS = 52  # 13 of each task
GREEDY = SamplingParams(MAX_TOKENS, temperature=0.0)

Prompt = tuple[int, ...]


@dataclass(frozen=True)
class Lab:
    """The target in ``transformers``, and pairs of the same target with several drafts."""

    model: torch.nn.Module
    pairs: dict[str, LocalPair]
    prompts: list[Prompt]

    def __post_init__(self) -> None:
        object.__setattr__(self, "generated", cache(self.generated))

    def generated(self, prompt: Prompt, **options: int) -> tuple[int, ...]:
        """The answer of ``generate`` on the target alone, end-of-sequence token included."""
        ids = torch.tensor([prompt])
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            **{"max_new_tokens": MAX_TOKENS, **options},
        )
        return tuple(out[0, len(prompt) :].tolist())

    def one_of_each_task(self) -> list[Prompt]:
        return self.prompts[:: len(self.prompts) // len(Task)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("models")
    target, draft = DEMO / "target", DEMO / "draft"
    random = pairs.write_model(folder / "random", AutoTokenizer.from_pretrained(target), seed=9)
    tokenizer = Tokenizer.load(str(target))
    engine = load_engine(target)
    drafts = dict(zip(DRAFTS, (draft, random, target), strict=True))
    others = {"random": load_engine(random)}
    return Lab(
        AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval(),
        {
            name: LocalPair(
                engine,
                load_engine(path),
                tokenizer.decode,
                tokenizer.eos_ids,
                ALWAYS,
                tokenizer,
                drafts=others if name == "demo" else None,
            )
            for name, path in drafts.items()
        },
        [
            tokenizer.apply_chat_template([{"role": "user", "content": example.prompt}])
            for task in Task
            for example in heldout(task, NUM_PROMPTS // len(Task))
        ],
    )


def load_engine(folder: Path) -> TorchEngine:
    return TorchEngine.from_config(EngineConfig(str(folder), dtype="float32", device="cpu", num_slots=2))


@pytest.fixture(autouse=True)
def slots_are_given_back(lab: Lab) -> Iterator[None]:
    yield
    for pair in lab.pairs.values():
        for engine in (pair.target, pair.draft):
            assert engine is not None
            assert engine.num_free_slots == engine.num_slots
            engine.check_integrity()


def exact(drafting: str | None = None, max_draft_tokens: int | None = None) -> SpeculationOptions:
    return SpeculationOptions(Mode.EXACT, drafting=drafting, max_draft_tokens=max_draft_tokens)


# --------------------------------------------------------------------------- greedy


@pytest.mark.parametrize("draft", DRAFTS)
def test_greedy_is_token_identical_to_generate_on_every_prompt(lab: Lab, draft: str):
    num_drafted = num_accepted = 0
    for prompt in lab.prompts:
        answer = lab.pairs[draft].generate(prompt, sampling=GREEDY, speculation=exact())
        assert answer.token_ids == lab.generated(prompt)
        # the last block may reach beyond the end of the answer; tokens there do not count as accepted
        num_drafted += sum(answer.report.drafted_per_round[:-1])
        num_accepted += sum(answer.report.accepted_per_round[:-1])
    assert num_drafted > 0
    if draft == "target itself":
        assert num_accepted > 0.99 * num_drafted
    else:
        assert num_accepted < num_drafted, "without a rejection this test shows nothing"


@pytest.mark.parametrize("max_draft_tokens", BLOCKS)
@pytest.mark.parametrize("drafting", POLICIES)
def test_no_policy_and_no_block_length_changes_a_greedy_answer(
    lab: Lab, drafting: str, max_draft_tokens: int
):
    for draft in ("demo", "random"):
        for prompt in lab.one_of_each_task():
            options = exact(drafting, max_draft_tokens)
            answer = lab.pairs[draft].generate(prompt, sampling=GREEDY, speculation=options)
            assert answer.token_ids == lab.generated(prompt), draft
            assert max(answer.report.drafted_per_round, default=0) <= max_draft_tokens


@pytest.mark.parametrize("source", SOURCES)
def test_no_draft_source_changes_a_greedy_answer(lab: Lab, source: str):
    num_drafted = 0
    for prompt in lab.one_of_each_task():
        options = SpeculationOptions(Mode.EXACT, drafting="static", draft=source)
        answer = lab.pairs["demo"].generate(prompt, sampling=GREEDY, speculation=options)
        assert answer.token_ids == lab.generated(prompt)
        num_drafted += answer.report.num_draft_tokens
    assert num_drafted > 0


def test_the_target_as_its_own_draft_changes_no_greedy_answer(lab: Lab):
    target = lab.model.config.name_or_path
    pair = LocalPair.load(target, dtype="float32", device="cpu", speculation=ALWAYS, early_exit=True)
    accepted = set()
    for prompt in lab.one_of_each_task():
        options = SpeculationOptions(Mode.EXACT, drafting="static", draft="self")
        answer = pair.generate(prompt, sampling=GREEDY, speculation=options)
        assert answer.token_ids == lab.generated(prompt)
        accepted |= {*answer.report.accepted_per_round}
    assert len(accepted) > 1, "accepted in full and rejected"


def test_adaptive_that_may_relax_nothing_is_exact(lab: Lab):
    options = SpeculationOptions(Mode.ADAPTIVE, max_relaxed_fraction=0.0)
    for draft in DRAFTS:
        for prompt in lab.one_of_each_task():
            answer = lab.pairs[draft].generate(prompt, sampling=GREEDY, speculation=options)
            assert answer.token_ids == lab.generated(prompt)


def test_no_more_than_the_allowed_share_is_relaxed_wherever_the_answer_ends(lab: Lab):
    """After every verdict, under a rule that accepts anything, so that only the share limits it."""
    options = SpeculationOptions(Mode.ADAPTIVE, "static", "fsd:max_divergence=1", max_relaxed_fraction=0.3)
    usual, most = lab.pairs["random"], 0.0
    pair = LocalPair(usual.target, usual.draft, usual.decode, usual.eos_ids, ALWAYS)
    for prompt in lab.one_of_each_task():
        kinds: list[TokenKind] = []
        for event in pair.stream(prompt, sampling=GREEDY, speculation=options):
            if isinstance(event, Chunk):
                kinds += [token.kind for token in event.tokens]
                most = max(most, kinds.count(TokenKind.RELAXED) / len(kinds))
    assert 0.2 < most <= 0.3


def test_adaptive_that_may_relax_everything_is_not(lab: Lab):
    """The comparison above can fail."""
    options = SpeculationOptions(Mode.ADAPTIVE, max_relaxed_fraction=1.0)
    usual = lab.pairs["demo"]
    pair = LocalPair(usual.target, usual.draft, usual.decode, usual.eos_ids, ALWAYS)
    answers = [pair.generate(prompt, sampling=GREEDY, speculation=options) for prompt in lab.prompts]
    assert [answer.token_ids for answer in answers] != [lab.generated(prompt) for prompt in lab.prompts]


@pytest.mark.parametrize("max_draft_tokens", BLOCKS)
def test_a_stop_string_ends_the_answer_where_it_begins_in_the_targets_text(lab: Lab, max_draft_tokens: int):
    pair = lab.pairs["demo"]
    for prompt in lab.one_of_each_task():
        tokens = lab.generated(prompt)
        text = pair.decode(tokens)
        middle = len(text) // 2
        stops = (text[middle : middle + 4], text[middle + 2 : middle + 12])
        sampling = replace(GREEDY, stop=stops)
        answer = pair.generate(prompt, sampling=sampling, speculation=exact("static", max_draft_tokens))
        num_tokens, start = first_stop([pair.decode(tokens[: n + 1]) for n in range(len(tokens))], stops)
        assert answer.token_ids == tokens[:num_tokens]
        assert answer.text == text[:start]
        assert answer.finish_reason is FinishReason.STOP


def first_stop(texts: list[str], stops: tuple[str, ...]) -> tuple[int, int]:
    """Tokens until any stop string is complete, and where the earliest of those begins in the text."""
    for num_tokens, text in enumerate(texts, 1):
        if found := [text.index(stop) for stop in stops if stop in text]:
            return num_tokens, min(found)
    raise AssertionError(f"{stops} are not in {texts[-1]!r}")


def test_an_answer_that_must_be_longer_is_generates_too(lab: Lab):
    sampling = replace(GREEDY, min_tokens=MAX_TOKENS - 4)
    for prompt in lab.one_of_each_task():
        answer = lab.pairs["demo"].generate(prompt, sampling=sampling, speculation=exact())
        assert answer.token_ids == lab.generated(prompt, min_new_tokens=MAX_TOKENS - 4)
        assert len(answer.token_ids) >= MAX_TOKENS - 4


def test_a_draft_with_a_larger_embedding_proposes_nothing_that_the_target_does_not_know(
    lab: Lab, tmp_path: Path
):
    target = lab.model.config.name_or_path
    tokens = AutoTokenizer.from_pretrained(target)
    padded = pairs.write_model(tmp_path / "padded", tokens, seed=5, vocab_size=2 * len(tokens))
    pair = LocalPair.load(target, str(padded), dtype="float32", device="cpu", speculation=ALWAYS)
    for prompt in lab.one_of_each_task():
        answer = pair.generate(prompt, sampling=GREEDY, speculation=exact("static", 5))
        assert answer.token_ids == lab.generated(prompt)
        assert answer.report.num_draft_tokens > 0


def test_a_stream_that_is_left_gives_its_slots_back(lab: Lab):
    stream = lab.pairs["demo"].stream(lab.prompts[0], GREEDY, exact())
    next(stream)
    assert lab.pairs["demo"].target.num_free_slots < lab.pairs["demo"].target.num_slots
    stream.close()  # the fixture checks


# --------------------------------------------------------------------------- sampled, with a seed

SAMPLED = SamplingParams(16, temperature=1.0, seed=11)
STORY = Grammar(
    GrammarKind.JSON_SCHEMA,
    json.dumps(
        {
            "type": "object",
            "properties": {"hero": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
            "required": ["hero", "age"],
            "additionalProperties": False,
        }
    ),
)
SAMPLINGS = {
    "temperature 1": SAMPLED,
    "temperature 0.7": replace(SAMPLED, temperature=0.7),
    "top_p": replace(SAMPLED, top_p=0.8),
    "top_k": replace(SAMPLED, top_k=5),
    "min_p": replace(SAMPLED, min_p=0.05),
    "logit_bias": replace(SAMPLED, logit_bias=((40, 3.0), (50, -100.0))),
    "min_tokens": replace(SAMPLED, min_tokens=14),
    "penalties": replace(SAMPLED, presence_penalty=0.8, frequency_penalty=0.5, repetition_penalty=1.2),
    "a schema": replace(SAMPLED, grammar=STORY),
    "a schema and penalties": replace(SAMPLED, grammar=STORY, frequency_penalty=0.3, logprobs=2),
    "all together": replace(SAMPLED, temperature=0.7, top_p=0.95, top_k=20, min_p=0.01, min_tokens=8),
}


@pytest.mark.parametrize("name", SAMPLINGS)
def test_with_a_seed_no_draft_policy_or_block_length_changes_a_sampled_answer(lab: Lab, name: str):
    sampling = SAMPLINGS[name]
    for number, prompt in enumerate(lab.one_of_each_task()):
        off = SpeculationOptions(Mode.OFF)
        alone = lab.pairs["demo"].generate(prompt, sampling=sampling, speculation=off).token_ids
        num_drafted = 0
        for place, drafting in enumerate(
            POLICIES
        ):  # over prompts and policies, every length is combined with every draft
            draft = DRAFTS[(number + place // 3) % len(DRAFTS)]
            options = exact(drafting, BLOCKS[(number + place) % len(BLOCKS)])
            answer = lab.pairs[draft].generate(prompt, sampling=sampling, speculation=options)
            assert answer.token_ids == alone, (drafting, options.max_draft_tokens, draft)
            num_drafted += answer.report.num_draft_tokens
        assert num_drafted > 0
        assert len(alone) >= sampling.min_tokens


def test_a_greedy_answer_by_a_schema_is_the_same_with_every_draft_and_parses(lab: Lab):
    sampling = replace(GREEDY, grammar=STORY, repetition_penalty=1.1, logprobs=1)
    for prompt in lab.one_of_each_task():
        alone = lab.pairs["demo"].generate(
            prompt, sampling=sampling, speculation=SpeculationOptions(Mode.OFF)
        )
        assert alone.finish_reason is FinishReason.STOP
        assert json.loads(alone.text).keys() == {"hero", "age"}
        for draft in DRAFTS:
            for length in BLOCKS:
                options = exact("static", length)
                answer = lab.pairs[draft].generate(prompt, sampling=sampling, speculation=options)
                assert answer.token_ids == alone.token_ids
                for ours, theirs in zip(answer.tokens, alone.tokens, strict=True):
                    assert ours.logprob is not None
                    assert theirs.logprob is not None
                    assert ours.logprob.logprob == pytest.approx(theirs.logprob.logprob, abs=1e-4)


@pytest.mark.parametrize("source", SOURCES)
def test_with_a_seed_no_draft_source_changes_a_sampled_answer(lab: Lab, source: str):
    for sampling in (SAMPLINGS["temperature 1"], SAMPLINGS["all together"]):
        for prompt in lab.one_of_each_task():
            off = SpeculationOptions(Mode.OFF)
            alone = lab.pairs["demo"].generate(prompt, sampling=sampling, speculation=off).token_ids
            options = SpeculationOptions(Mode.EXACT, drafting="static", draft=source)
            answer = lab.pairs["demo"].generate(prompt, sampling=sampling, speculation=options)
            assert answer.token_ids == alone


def test_another_seed_gives_another_answer(lab: Lab):
    """The comparison above can fail."""
    prompt = lab.prompts[0]
    answers = {
        lab.pairs["demo"]
        .generate(prompt, sampling=replace(SAMPLED, seed=seed), speculation=exact())
        .token_ids
        for seed in range(8)
    }
    assert len(answers) > 1
