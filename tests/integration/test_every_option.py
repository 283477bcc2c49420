"""Speculation does not change the answer, for random combinations of every option.

Greedy and seeded answers are compared token by token, log-probabilities to 1e-4: mode exact with mode off, mode
off with plain Python over transformers' logits. Planted bugs show that the comparison can fail.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adasd.engine.sampling import logits_processors, logprobs
from adasd.errors import InvalidRequest
from adasd.local import LocalPair
from adasd.requests import Grammar, GrammarKind, Mode, SamplingParams, SpeculationOptions
from adasd.results import FinishReason
from adasd.specdec.penalties import TokenCounts
from adasd.text.grammar import Matcher
from tests.integration import every_option as some

pytestmark = pytest.mark.slow

OFF = SpeculationOptions(Mode.OFF)
EXACT = SpeculationOptions(Mode.EXACT, drafting="static", max_draft_tokens=5)
RELAXED = SpeculationOptions(Mode.ADAPTIVE, max_relaxed_fraction=1.0)


@pytest.fixture(scope="module")
def pairs() -> dict[str, LocalPair]:
    return {"close": some.pair(0.15), "far": some.pair(1.0)}


@pytest.fixture(autouse=True)
def slots_are_given_back(pairs: dict[str, LocalPair]) -> Iterator[None]:
    yield
    for pair in pairs.values():
        for engine in (pair.target, pair.draft):
            assert engine is not None
            assert engine.num_free_slots == engine.num_slots
            engine.check_integrity()


requests = settings(max_examples=40)
prompts = st.sampled_from(some.PROMPTS)


@requests
@given(prompts, some.samplings, some.drafts, st.sampled_from(["close", "far"]))
def test_exact_is_off(pairs, prompt, sampling, speculation, draft):
    off = pairs[draft].generate(prompt, sampling=sampling, speculation=OFF)
    exact = pairs[draft].generate(prompt, sampling=sampling, speculation=speculation)
    assert some.difference(exact, off) is None


@requests
@given(prompts, some.samplings.map(some.without_stop_strings))
def test_off_is_what_plain_python_makes_of_the_logits_of_transformers(pairs, prompt, sampling):
    answer = pairs["close"].generate(prompt, sampling=sampling, speculation=OFF)
    tokens, logprobs = some.by_hand(prompt, sampling)
    assert answer.token_ids == tokens
    if sampling.logprobs is not None:
        assert [token.logprob.logprob for token in answer.tokens] == pytest.approx(logprobs, abs=1e-4)
        assert all(len(token.logprob.top) == sampling.logprobs for token in answer.tokens)
    else:
        assert all(token.logprob is None for token in answer.tokens)


@requests
@given(prompts, some.samplings, st.booleans())
def test_nothing_outside_its_grammar_is_ever_emitted(pairs, prompt, sampling, seeded):
    """Also under relaxation and without a seed; an answer that ends by itself is a whole sentence."""
    grammar = sampling.grammar or some.SOME_GRAMMARS[1]
    sampling = replace(
        sampling, grammar=grammar, seed=sampling.seed if seeded else None, stop=(), stop_token_ids=()
    )
    for speculation in (OFF, EXACT, RELAXED):
        answer = pairs["far"].generate(prompt, sampling=sampling, speculation=speculation)
        matcher = some.GRAMMARS.matcher(grammar)
        for token in answer.token_ids:
            assert matcher.masks()[0][token]
            matcher.extend([token])
        ended = answer.finish_reason is FinishReason.STOP
        assert ended == (answer.token_ids[-1] == some.EOS)
        if ended:
            assert is_sentence(grammar, answer.text), answer.text


def is_sentence(grammar: Grammar, text: str) -> bool:
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            jsonschema.validate(json.loads(text), json.loads(grammar.text))
            return True
        case GrammarKind.REGEX:
            return re.fullmatch(grammar.text, text) is not None
        case GrammarKind.LARK:
            half = len(text.replace("the cat", "")) // 2
            return text in ("(" * half + middle + ")" * half for middle in ("the cat", ""))


# --------------------------------------------------------------------------- log-probabilities of prompts


@pytest.mark.parametrize("mode", [OFF, EXACT], ids=lambda one: one.mode)
def test_the_prompts_logprobs_are_those_of_one_forward_pass(pairs, mode):
    """Prompts longer than a prefill chunk, prompts in the prefix cache, and prompts beside other sessions."""
    prompt = some.PROMPTS[2]
    assert len(prompt) > 40, "longer than a piece of prefill"
    sampling = SamplingParams(4, temperature=0.0, prompt_logprobs=3, logprobs=1)
    expected = some.raw_logits(prompt).log_softmax(-1)
    for _ in range(2):
        answer = pairs["close"].generate(prompt, sampling=sampling, speculation=mode)
        assert answer.usage.cached_tokens == 0, "what is scored has to be computed"
        assert len(answer.prompt_logprobs) == len(prompt) - 1
        for i, said in enumerate(answer.prompt_logprobs):
            assert said.logprob == pytest.approx(float(expected[i, prompt[i + 1]]), abs=1e-4)
            best = expected[i].topk(3)
            assert [value for _, value in said.top] == pytest.approx(best.values.tolist(), abs=1e-4)
    without = replace(sampling, prompt_logprobs=None)
    assert pairs["close"].generate(prompt, sampling=without, speculation=mode).usage.cached_tokens > 0


def test_a_prompt_can_be_scored_without_an_answer(pairs):
    answer = pairs["close"].generate(
        some.PROMPTS[0], sampling=SamplingParams(0, temperature=0.0, prompt_logprobs=0)
    )
    assert (answer.token_ids, answer.finish_reason) == ((), FinishReason.LENGTH)
    assert len(answer.prompt_logprobs) == len(some.PROMPTS[0]) - 1


def test_a_prompt_of_one_token_has_nothing_to_score(pairs):
    answer = pairs["close"].generate((7,), sampling=SamplingParams(2, prompt_logprobs=1))
    assert answer.prompt_logprobs == ()


# --------------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize("mode", [OFF, EXACT], ids=lambda one: one.mode)
def test_a_grammar_that_does_not_compile_takes_no_slot(pairs, mode):
    bad = SamplingParams(4, grammar=Grammar(GrammarKind.REGEX, "a(b"))
    with pytest.raises(InvalidRequest, match="unclosed group") as refusal:
        pairs["close"].generate(some.PROMPTS[0], sampling=bad, speculation=mode)
    assert refusal.value.param == "grammar"  # and the fixture checks the slots


def test_a_draft_that_knows_fewer_tokens_cannot_lead_out_of_a_grammar():
    """If the draft's vocabulary has none of the allowed tokens, it guesses and the target corrects."""
    target = some.engine(some.tiny_model())
    draft = some.engine(some.tiny_model(), max_context=None)
    draft.runner.vocab_size = 60  # as vocab_limit does: only the first single-byte letters
    pair = LocalPair(target, draft, some.TOKENIZER.decode, some.TOKENIZER.eos_ids)
    for sampling in (SamplingParams(20, 0.0), SamplingParams(20, 1.0, seed=3), SamplingParams(20, 1.0)):
        sampling = replace(sampling, grammar=some.SOME_GRAMMARS[2])
        answer = pair.generate(some.PROMPTS[0], sampling=sampling, speculation=EXACT)
        assert is_sentence(sampling.grammar, answer.text) or answer.finish_reason is FinishReason.LENGTH
        assert answer.report.num_draft_tokens > answer.report.num_accepted_tokens


# --------------------------------------------------------------------------- planted bugs

ALL_AT_ONCE = SamplingParams(
    20,
    temperature=1.0,
    seed=4,
    presence_penalty=1.0,
    frequency_penalty=0.7,
    repetition_penalty=1.3,
    grammar=Grammar(GrammarKind.REGEX, r"((the|cat|dog|hat)[ 0-9]){3,9}"),
    logprobs=2,
)


def first_mask_only(original: Callable[..., Any]) -> Callable[..., Any]:
    def masks(self: Matcher, ahead: Any = (), first: int = 0) -> list[Any]:
        found = original(self, ahead, first)
        return [found[0]] * len(found)

    return masks


def blind_to_the_block(original: Callable[..., Any]) -> Callable[..., Any]:
    def ahead(self: TokenCounts, tokens: Any, at: int, num_rows: int) -> Any:
        return original(self, tokens[: len(tokens) - num_rows + 1], at, num_rows)

    return ahead


def never(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_, **__: None


def of_a_cooler_distribution(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda logits_NV, tokens, num_top: original(2 * logits_NV, tokens, num_top)


BUGS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "a grammar's later masks are its first": (Matcher, "masks", first_mask_only),
    "a grammar is not rolled back": (Matcher, "_back", never),
    "a block's own tokens are not counted": (TokenCounts, "ahead", blind_to_the_block),
    "rejected tokens stay counted": (TokenCounts, "cut", never),
    "no penalties at all": (logits_processors, "penalise", never),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch):
    """On its own engines, since a bug may leave their slots in any state."""

    def differs() -> bool:
        pair = some.pair(0.3)
        for seed in range(8):
            sampling = replace(ALL_AT_ONCE, seed=seed)
            answer = pair.generate(some.PROMPTS[0], sampling=sampling, speculation=EXACT)
            tokens, _ = some.by_hand(some.PROMPTS[0], sampling)
            if answer.token_ids != tokens:
                return True
        return False

    assert not differs(), "without the bug all is well"
    owner, what, spoil = BUGS[name]
    truth = {seed: some.by_hand(some.PROMPTS[0], replace(ALL_AT_ONCE, seed=seed)) for seed in range(8)}
    monkeypatch.setattr(some, "by_hand", lambda _, sampling: truth[sampling.seed])
    monkeypatch.setattr(owner, what, spoil(getattr(owner, what)))
    assert differs()


def test_logprobs_of_another_distribution_are_noticed(pairs, monkeypatch):
    off = pairs["close"].generate(some.PROMPTS[0], sampling=ALL_AT_ONCE, speculation=OFF)
    monkeypatch.setattr(logprobs, "token_logprobs", of_a_cooler_distribution(logprobs.token_logprobs))
    exact = pairs["close"].generate(some.PROMPTS[0], sampling=ALL_AT_ONCE, speculation=EXACT)
    found = some.difference(exact, off)
    assert found is not None
    assert found.what == "logprobs"
