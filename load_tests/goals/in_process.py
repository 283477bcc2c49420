"""Modes of a pair in this process in turn, answer by answer; a pair that has learned nothing, if wanted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adasd.config import EngineConfig
from adasd.engine.engine import TorchEngine
from adasd.local import LocalPair
from adasd.requests import Mode, SamplingParams, SpeculationOptions
from adasd.text.tokenizer import Tokenizer
from load_tests.goals.row import ratio
from load_tests.interleaving import turns


@dataclass(frozen=True)
class Engines:
    """Engines of target and draft, and the target's tokenizer."""

    target: TorchEngine
    draft: TorchEngine
    tokenizer: Tokenizer

    @classmethod
    def load(
        cls,
        target: str,
        draft: str,
        threads: int,
        *,
        target_weights: str = "full",
        draft_weights: str = "int8",
    ) -> Engines:
        """In float32 on the CPU, both warmed up."""
        shared = {
            "dtype": "float32",
            "device": "cpu",
            "num_threads": threads,
            "num_slots": 2,
            "prefix_cache": False,
        }
        large = TorchEngine.from_config(EngineConfig(target, weights=target_weights, **shared))
        small = TorchEngine.from_config(
            EngineConfig(draft, weights=draft_weights, **shared), vocab_limit=large.vocab_size
        )
        for engine in (large, small):
            engine.warm_up()
        return cls(large, small, Tokenizer.load(target))

    def pair(self) -> LocalPair:
        """A pair over these engines, whose controller has learned nothing."""
        words = self.tokenizer
        return LocalPair(self.target, self.draft, words.decode, words.eos_ids, tokenizer=words)


def rates(
    engines: Engines,
    ways: Mapping[str, SpeculationOptions],
    prompts: Sequence[str],
    sampling: SamplingParams,
    repeats: int,
    *,
    cold: bool,
) -> dict[str, list[float]]:
    """Tokens per second of each way by repeat; with ``cold`` every answer is the first one of its pair."""
    words = engines.tokenizer
    ids = [words.apply_chat_template([{"role": "user", "content": text}]) for text in prompts]
    pairs = {name: engines.pair() for name in ways}
    tokens = {name: [0.0] * repeats for name in ways}
    seconds = {name: [0.0] * repeats for name in ways}
    for name, options in ways.items():  # uncounted
        pairs[name].generate(ids[0], sampling=sampling, speculation=options)
    for turn in turns(list(ways), len(ids), repeats):
        pair = engines.pair() if cold else pairs[turn.name]
        began_s = time.perf_counter()
        answer = pair.generate(ids[turn.prompt], sampling=sampling, speculation=ways[turn.name])
        seconds[turn.name][turn.repeat] += time.perf_counter() - began_s
        tokens[turn.name][turn.repeat] += len(answer.token_ids)
    return {
        name: [some / time_s for some, time_s in zip(tokens[name], seconds[name], strict=True)]
        for name in ways
    }


def over_off(found: Mapping[str, Sequence[float]], name: str) -> float:
    """A way's speed over that of ``off``."""
    return round(ratio(found[name], found[Mode.OFF]), 3)
