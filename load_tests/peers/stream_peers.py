"""The contenders of ``single_stream``: transformers alone, transformers assisted, and ours.

All answer greedily from token ids in float32 (on CPU) and return the new ids without the end-of-sequence token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from adasd.local import LocalPair
from adasd.requests import Mode, SamplingParams, SpeculationOptions

PLAIN = "generate"
ASSISTED: dict[str, dict[str, int | float | str]] = {
    "assisted constant 5": {"num_assistant_tokens": 5, "num_assistant_tokens_schedule": "constant"},
    "assisted heuristic": {"num_assistant_tokens": 5, "num_assistant_tokens_schedule": "heuristic"},
    "assisted dynamic": {
        "num_assistant_tokens": 20,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0.4,
    },
}
OURS = {
    "off": SpeculationOptions(Mode.OFF),
    "exact static 5": SpeculationOptions(Mode.EXACT, drafting="static", max_draft_tokens=5),
    "exact adasd": SpeculationOptions(Mode.EXACT, drafting="adasd"),
    "exact goodput": SpeculationOptions(Mode.EXACT, drafting="goodput"),
    "adaptive": SpeculationOptions(Mode.ADAPTIVE),
}


@dataclass(slots=True)
class Drafting:
    """Counts of speculation for one contender, over all its answers."""

    num_passes: int = 0  # of the target, prefill not counted
    num_drafted: int = 0
    num_accepted: int = 0


class StreamPeer(Protocol):
    """One contender. ``drafting`` is None if it is unknown."""

    drafting: Drafting | None

    @property
    def exact(self) -> bool:
        """Whether every answer must equal that of the target alone."""
        ...

    def answer(self, prompt: Sequence[int], max_tokens: int) -> list[int]: ...


@dataclass(slots=True)
class Generate:
    """``transformers`` alone, or assisted by a draft with its own copy of the draft's generation settings.

    The copy matters: the heuristic schedule changes it between answers.
    """

    model: PreTrainedModel
    eos_ids: frozenset[int]
    assistant: PreTrainedModel | None = None
    settings: GenerationConfig | None = None
    tokenizers: Mapping[str, PreTrainedTokenizerBase] = field(default_factory=dict)
    drafting: Drafting | None = None

    @property
    def exact(self) -> bool:
        return True

    def answer(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        extra: dict[str, Any] = dict(self.tokenizers)
        if self.assistant is not None and self.settings is not None:
            self.assistant.generation_config = self.settings
            extra["assistant_model"] = self.assistant
        ids = torch.tensor([prompt], device=self.model.device)
        out = self.model.generate(  # type: ignore[operator]
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False, **extra
        )
        return without_end(out[0, len(prompt) :].tolist(), self.eos_ids)


@dataclass(slots=True)
class OurStream:
    """``LocalPair`` with fixed options and its own controller."""

    pair: LocalPair
    options: SpeculationOptions
    drafting: Drafting | None = field(default_factory=Drafting)

    @property
    def exact(self) -> bool:
        return self.options.mode is not Mode.ADAPTIVE

    def answer(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        answer = self.pair.generate(
            prompt, sampling=SamplingParams(max_tokens, temperature=0.0), speculation=self.options
        )
        assert self.drafting is not None
        self.drafting.num_passes += answer.report.num_rounds
        self.drafting.num_drafted += answer.report.num_draft_tokens
        self.drafting.num_accepted += answer.report.num_accepted_tokens
        return without_end(answer.token_ids, self.pair.eos_ids)


def without_end(ids: Sequence[int], eos_ids: frozenset[int]) -> list[int]:
    return [token for token in ids if token not in eos_ids]


def plain_model(name: str, device: str) -> PreTrainedModel:
    """The model as transformers loads it; float32 on CPU as in our engine."""
    dtype = torch.float32 if device == "cpu" else "auto"
    model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)  # its declared types are too narrow
    return cast("PreTrainedModel", model.to(device).eval())


def load(target: str, draft: str, device: str, threads: int) -> tuple[LocalPair, dict[str, StreamPeer]]:
    """All contenders by name, and a pair whose tokenizer they share. No prefix cache, since prompts repeat.

    The models are loaded twice, because an engine modifies the model that it takes over.
    """
    pair = LocalPair.load(target, draft, device=device, num_threads=threads, prefix_cache=False)
    model, assistant = plain_model(target, device), plain_model(draft, device)
    tokenizers = {}
    if model.config.get_text_config().vocab_size != assistant.config.get_text_config().vocab_size:
        tokenizers = {
            "tokenizer": AutoTokenizer.from_pretrained(target),
            "assistant_tokenizer": AutoTokenizer.from_pretrained(draft),
        }
    contenders: dict[str, StreamPeer] = {PLAIN: Generate(model, pair.eos_ids)}
    for name, changes in ASSISTED.items():
        settings = deepcopy(assistant.generation_config)
        settings.assistant_confidence_threshold = 0.0
        for field_name, value in changes.items():
            setattr(settings, field_name, value)
        contenders[name] = Generate(model, pair.eos_ids, assistant, settings, tokenizers)
    for name, options in OURS.items():
        alone = LocalPair(pair.target, pair.draft, pair.decode, pair.eos_ids)
        contenders[name] = OurStream(alone, options)
    return pair, contenders
