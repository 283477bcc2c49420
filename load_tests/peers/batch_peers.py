"""The contenders of ``batch_throughput`` that answer many prompts at once: transformers' two, and ours.

All answer greedily from token ids in float32 (on CPU), stop where the model stops, and return the new ids without
the end-of-sequence token. None uses a prefix cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from adasd.config import EngineConfig
from adasd.engine.engine import TorchEngine
from adasd.local import LocalPair
from adasd.requests import Mode, SamplingParams, SpeculationOptions
from adasd.text.tokenizer import Tokenizer
from load_tests.peers.in_process_batch import InProcessBatch
from load_tests.peers.stream_peers import without_end

OFF, EXACT, PADDED, CONTINUOUS = "off", "exact", "padded generate", "continuous batching"
POLL_S = 0.05
TIMEOUT_S = 600.0


class BatchPeer(Protocol):
    """One way to answer many prompts."""

    def answer_all(self, prompts: Sequence[Sequence[int]], width: int, max_tokens: int) -> list[list[int]]:
        """All answers, with at most ``width`` sessions at once."""
        ...


@dataclass(slots=True)
class OurBatch:
    """Session machines over the engines; when a session ends, the next starts at once."""

    pair: LocalPair
    options: SpeculationOptions

    def answer_all(self, prompts: Sequence[Sequence[int]], width: int, max_tokens: int) -> list[list[int]]:
        batch = InProcessBatch(self.pair, self.options)
        answers = []
        for prompt in prompts:
            while batch.num_running >= width:
                batch.turn()
            answers.append(batch.start(prompt, SamplingParams(max_tokens, temperature=0.0)))
        batch.finish()
        return [without_end(answer.token_ids, self.pair.eos_ids) for answer in answers]


@dataclass(slots=True)
class PaddedBatch:
    """``generate`` over left-padded batches of ``width`` prompts, one batch after the other."""

    model: PreTrainedModel
    eos_ids: frozenset[int]

    def answer_all(self, prompts: Sequence[Sequence[int]], width: int, max_tokens: int) -> list[list[int]]:
        answers = []
        for first in range(0, len(prompts), width):
            answers += self._batch(prompts[first : first + width], max_tokens)
        return answers

    def _batch(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
        longest = max(map(len, prompts))
        gaps = [longest - len(prompt) for prompt in prompts]
        rows = [[0] * gap + list(prompt) for gap, prompt in zip(gaps, prompts, strict=True)]
        ids = torch.tensor(rows, device=self.model.device)
        mask = torch.tensor([[0] * gap + [1] * (longest - gap) for gap in gaps], device=self.model.device)
        out = self.model.generate(  # type: ignore[operator]
            ids, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False, pad_token_id=0
        )
        return [until_end(row, self.eos_ids) for row in out[:, longest:].tolist()]


class Continuous:
    """transformers' continuous batching; its manager keeps running between answers."""

    def __init__(self, model: PreTrainedModel, eos_ids: frozenset[int], max_width: int) -> None:
        self.eos_ids = eos_ids
        settings: Any = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False, eos_token_id=sorted(eos_ids) or -1, pad_token_id=0
        )
        pages = ContinuousBatchingConfig(num_blocks=4 * max_width + 32, allow_block_sharing=False)
        self._manager: Any = model.init_continuous_batching(  # type: ignore[operator]
            generation_config=settings, continuous_batching_config=pages
        )

    def __enter__(self) -> Self:
        self._manager.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.stop(block=True)

    def answer_all(self, prompts: Sequence[Sequence[int]], width: int, max_tokens: int) -> list[list[int]]:
        """Raises RuntimeError if the manager fails or stops answering."""
        waiting = list(range(len(prompts)))[::-1]
        places: dict[str, int] = {}
        answers: dict[int, list[int]] = {}
        while len(answers) < len(prompts):
            while waiting and len(places) < width:
                place = waiting.pop()
                places[self._manager.add_request(list(prompts[place]), max_new_tokens=max_tokens)] = place
            result = self._next()
            if result.is_finished():
                answers[places.pop(result.request_id)] = until_end(result.generated_tokens, self.eos_ids)
        return [answers[place] for place in range(len(prompts))]

    def _next(self) -> Any:
        for _ in range(int(TIMEOUT_S / POLL_S)):
            with suppress(Empty):
                result = self._manager.get_result(timeout=POLL_S)
                if result is not None:
                    if result.error:
                        raise RuntimeError(f"continuous batching failed: {result.error}")
                    return result
            if not self._manager.is_running():
                raise RuntimeError("continuous batching has stopped")
        raise RuntimeError(f"continuous batching gave no answer within {TIMEOUT_S:g} s")


def until_end(ids: Sequence[int], eos_ids: frozenset[int]) -> list[int]:
    """The tokens before the end of the answer and its padding."""
    end = next((i for i, token in enumerate(ids) if token in eos_ids), len(ids))
    return list(ids[:end])


def load_pair(
    target: str, draft: str, threads: int, num_slots: int, *, prefix_cache: bool, device: str = "cpu"
) -> LocalPair:
    """A pair with as many slots as sessions that run at once."""
    config = EngineConfig(
        target, device=device, num_threads=threads, num_slots=num_slots, prefix_cache=prefix_cache
    )
    judge = TorchEngine.from_config(config)
    drafter = TorchEngine.from_config(replace(config, model=draft), vocab_limit=judge.vocab_size)
    tokenizer = Tokenizer.load(target)
    return LocalPair(judge, drafter, tokenizer.decode, tokenizer.eos_ids, tokenizer=tokenizer)


def ours(pair: LocalPair) -> dict[str, BatchPeer]:
    """Plain decoding, and speculation with the service's defaults."""
    return {
        OFF: OurBatch(pair, SpeculationOptions(Mode.OFF)),
        EXACT: OurBatch(pair, SpeculationOptions(Mode.EXACT)),
    }
