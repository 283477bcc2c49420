"""Random requests over every sampling option, a tiny pair that answers them, and the same answers by transformers."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache

import torch
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from adasd.config import EngineConfig
from adasd.engine.engine import TorchEngine
from adasd.local import Answer, LocalPair
from adasd.requests import Grammar, GrammarKind, Mode, SamplingParams, SpeculationOptions
from adasd.session.opening import transform_of
from adasd.specdec.verify_reference import coupled_choice, first_max, masked, sampling_probs
from adasd.text.grammar import GrammarCompiler
from adasd.text.tokenizer import Tokenizer
from tests.unit.text.tokenizers_for_tests import byte_level

TOKENIZER = Tokenizer(byte_level())
GRAMMARS = GrammarCompiler(lambda: TOKENIZER)
(EOS,) = TOKENIZER.eos_ids
PADDING = 6  # ids of the embedding that the tokenizer does not know
VOCAB_SIZE = TOKENIZER.vocab_size + PADDING
MAX_TOKENS = 24
PROMPTS = tuple(
    TOKENIZER.encode(text) for text in ("the cat sat on the mat", "def f(x): return", "1 2 3 4 5" * 9)
)
SCHEMA = {
    "type": "object",
    "properties": {"cat": {"type": "boolean"}, "hat": {"enum": ["red", "blue", "the mat"]}},
    "required": ["cat", "hat"],
    "additionalProperties": False,
}
SOME_GRAMMARS = (
    None,
    Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA)),
    Grammar(GrammarKind.REGEX, r"(the |cat |dog ){2,5}[0-9]{1,4}"),
    Grammar(GrammarKind.LARK, 'start: "(" start ")" | "the cat" | ""'),
)


def tiny_model(noise: float = 0.0, vocab_size: int = VOCAB_SIZE) -> LlamaForCausalLM:
    """A random Llama with wide logits; a little ``noise`` on every weight makes a draft that often agrees."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=192,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(2)
    for weight in model.parameters():
        if noise and weight.dim() > 1:
            weight.data += noise * weight.data.std() * torch.randn(weight.shape, generator=generator)
    return model


def engine(model: LlamaForCausalLM, **options: object) -> TorchEngine:
    """Small prefill chunks, so that most prompts take several passes."""
    config = EngineConfig("tiny", num_slots=3, prefill_chunk=40, **options)  # type: ignore[arg-type]
    return TorchEngine.from_model(model, config, grammars=GRAMMARS, seed=5)


def pair(noise: float = 0.15) -> LocalPair:
    """A target and a draft that agrees with it most of the time."""
    draft = engine(tiny_model(noise))
    return LocalPair(engine(tiny_model()), draft, TOKENIZER.decode, TOKENIZER.eos_ids, tokenizer=TOKENIZER)


sometimes = st.integers(0, 2).map(bool)
biases = st.lists(st.tuples(st.integers(0, VOCAB_SIZE - 1), st.sampled_from([-100.0, -2.0, 3.0])), max_size=3)
samplings = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, MAX_TOKENS),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 1.4]),
    top_p=st.sampled_from([1.0, 0.9, 0.5]),
    top_k=st.sampled_from([0, 1, 4, 40]),
    min_p=st.sampled_from([0.0, 0.02, 0.3]),
    seed=st.integers(-(2**63), 2**63 - 1),
    min_tokens=st.sampled_from([0, 0, 3, 12]),
    ignore_eos=st.booleans(),
    stop=st.lists(st.sampled_from(["a", "the", " c", "1"]), max_size=2).map(tuple),
    stop_token_ids=st.lists(st.integers(5, VOCAB_SIZE - 1), max_size=3).map(tuple),
    logit_bias=biases.map(lambda edits: tuple(dict(edits).items())),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.5, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.7, -0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.8]),
    grammar=st.sampled_from(SOME_GRAMMARS),
    logprobs=st.none() | st.integers(0, 3),
    prompt_logprobs=st.none() | st.integers(0, 2),
)
drafts = st.builds(
    SpeculationOptions,
    mode=st.just(Mode.EXACT),
    drafting=st.sampled_from(["static", "adasd", "confidence"]),
    max_draft_tokens=st.integers(1, 9),
)


@dataclass(frozen=True)
class Difference:
    """The differences between two answers to one request."""

    what: str
    ours: object
    theirs: object


def difference(ours: Answer, theirs: Answer, tolerance: float = 1e-4) -> Difference | None:
    """The first difference in tokens, ending, text, or log-probabilities beyond ``tolerance``."""
    for what in ("token_ids", "finish_reason", "text"):
        one, other = getattr(ours, what), getattr(theirs, what)
        if one != other:
            return Difference(what, one, other)
    said = [[token.logprob for token in answer.tokens] for answer in (ours, theirs)]
    for what, one, other in (("logprobs", *said), ("prompt", ours.prompt_logprobs, theirs.prompt_logprobs)):
        if len(one) != len(other) or not all(map(lambda a, b: _close(a, b, tolerance), one, other)):
            return Difference(what, one, other)
    return None


def _close(one: object, other: object, tolerance: float) -> bool:
    if one is None or other is None:
        return one is other
    pairs = [
        (one.logprob, other.logprob),
        *zip(dict(one.top).values(), dict(other.top).values(), strict=True),
    ]
    return all(abs(a - b) <= tolerance for a, b in pairs)


# --------------------------------------------------------------------------- by hand


@cache
def _reference() -> LlamaForCausalLM:
    return tiny_model()


@torch.inference_mode()
def raw_logits(tokens: tuple[int, ...]) -> torch.Tensor:
    """[T, V]: for each token, the logits of the one after it."""
    return _reference()(torch.tensor([tokens])).logits[0].double()


def by_hand(prompt: tuple[int, ...], sampling: SamplingParams) -> tuple[tuple[int, ...], list[float]]:
    """The answer's tokens and their log-probabilities, from transformers' logits by plain Python, token by token.

    Stop strings are not handled (``without_stop_strings``).
    """
    transform = transform_of(sampling, len(prompt), TOKENIZER.eos_ids)
    text, logprobs = list(prompt), []
    while len(text) - len(prompt) < sampling.max_tokens:
        raw = raw_logits(tuple(text))[-1]
        allowed = None
        if sampling.grammar is not None:
            matcher = GRAMMARS.matcher(sampling.grammar)
            matcher.extend(text[len(prompt) :])
            allowed = matcher.masks()[0].tolist()
        logits = masked(raw.tolist(), text, transform, allowed)
        if transform.greedy:
            token = first_max(logits)
        else:
            assert sampling.seed is not None
            token = coupled_choice(sampling_probs(logits, transform), sampling.seed, len(text))
        logprobs.append(float(raw.log_softmax(-1)[token]))
        text.append(token)
        may_stop = len(text) - len(prompt) > sampling.min_tokens
        if token == EOS and (sampling.grammar is not None or (may_stop and not sampling.ignore_eos)):
            break
        if may_stop and token in sampling.stop_token_ids:
            break
    return tuple(text[len(prompt) :]), logprobs


def without_stop_strings(sampling: SamplingParams) -> SamplingParams:
    return replace(sampling, stop=())
