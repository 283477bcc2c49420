"""Answers on disk, in shards that are either whole or absent; a run that was stopped goes on with the next one.

Shard ``i`` holds the answers to prompts ``i * SHARD`` to ``(i + 1) * SHARD - 1`` of its stream, so that it is a
function of its number and the seed, whatever was interrupted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adasd.distill.answers import Answer, answer, prompt_ids
from adasd.distill.prompts import Prompt

SHARD = 96
GREEDY_SHARE = 0.6
HOTTEST = 1.0
LONGEST_PROMPT = 400  # tokens; the end of a longer one is kept


@dataclass(frozen=True, slots=True)
class Teacher:
    """A target that answers prompts; ``max_tokens`` per answer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int = 192
    seed: int = 0

    def shard(
        self, number: int, prompts: Sequence[Prompt], greedy_share: float, stopped: Callable[[], bool]
    ) -> list[Answer] | None:
        """The answers to ``prompts``; None if ``stopped()`` came first."""
        rng = random.Random(f"temperatures:{self.seed}:{number}")
        generator = torch.Generator(self.model.device).manual_seed(self.seed * 1_000_003 + number)
        heats = [0.0 if rng.random() < greedy_share else rng.uniform(0.3, HOTTEST) for _ in prompts]
        ids = [prompt_ids(self.tokenizer, prompt)[-LONGEST_PROMPT:] for prompt in prompts]
        return answer(self.model, ids, heats, self.max_tokens, generator, stopped=stopped)


def write(
    teacher: Teacher,
    prompts: Iterator[Prompt],
    folder: Path,
    *,
    greedy_share: float = GREEDY_SHARE,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[int]:
    """Write shard after shard until the prompts end or ``stopped()``; yields the tokens answered in each."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    while (batch := list(islice(prompts, SHARD))) and not stopped():
        file = folder / f"{number:05d}.safetensors"
        if not file.exists():
            answers = teacher.shard(number, batch, greedy_share, stopped)
            if answers is None:
                return
            save(file, answers)
            yield sum(len(one.top_ids_AK) for one in answers)
        number += 1


def save(file: Path, answers: Sequence[Answer]) -> None:
    """Write one shard in a single step."""
    tensors = {
        "ids": torch.tensor([id_ for one in answers for id_ in one.ids], dtype=torch.int32),
        "lens": torch.tensor([len(one.ids) for one in answers]),
        "prompt_lens": torch.tensor([one.prompt_len for one in answers]),
        "top_ids": torch.cat([one.top_ids_AK for one in answers]),
        "top_logprobs": torch.cat([one.top_logprobs_AK for one in answers]),
    }
    beside = file.with_suffix(".part")
    save_file(tensors, beside)
    beside.replace(file)


def load(file: Path) -> list[Answer]:
    """The answers of one shard."""
    tensors = load_file(file)
    answers, first, first_top = [], 0, 0
    for length, prompt_len in zip(tensors["lens"].tolist(), tensors["prompt_lens"].tolist(), strict=True):
        tops = slice(first_top, first_top + length - prompt_len)
        ids = tensors["ids"][first : first + length].tolist()
        answers.append(Answer(ids, prompt_len, tensors["top_ids"][tops], tensors["top_logprobs"][tops]))
        first, first_top = first + length, tops.stop
    return answers


def files(folder: Path) -> list[Path]:
    """Whole shards, in order."""
    return sorted(folder.glob("*.safetensors"))
