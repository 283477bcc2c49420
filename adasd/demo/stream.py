"""An endless stream of training batches: generated conversations in length buckets, reproducible by batch number.

Shapes: B conversations, T tokens (a multiple of 16).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from adasd.demo.demo_tokenizer import ASSISTANT, END, SYSTEM, SYSTEM_MESSAGES, USER
from adasd.demo.tasks import Task, generate

SHARES = {Task.ARITHMETIC: 0.42, Task.FUNCTION: 0.13, Task.STORY: 0.15, Task.EXTRACTION: 0.30}
SYSTEM_SHARE = 0.1  # conversations that open with a system message
SECOND_TURN_SHARE = 0.06  # conversations with a second question
POOL = 1024  # conversations that are generated and sorted by length together
BUCKET = 16
PROMPT_WEIGHT = 0.05


@dataclass(frozen=True, slots=True)
class Batch:
    """`ids_BT` is padded on the right; `weights_BT` is each token's weight in the loss (0 for padding)."""

    ids_BT: torch.Tensor
    weights_BT: torch.Tensor
    num_tokens: int


@dataclass(slots=True)
class Position:
    """Position of a stream, from which it can continue exactly: the pool and the next batch in it."""

    pool: int = 0
    batch: int = 0


class BatchStream:
    """Batches of about `batch_tokens` padded tokens for one `seed`, from `position` on."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        seed: int,
        batch_tokens: int,
        position: Position | None = None,
        *,
        pool_len: int = POOL,
    ) -> None:
        self.position = position or Position()
        self._tokenizer = tokenizer
        self._seed = seed
        self._batch_tokens = batch_tokens
        self._pool_len = pool_len
        self._pad = tokenizer.convert_tokens_to_ids("<|endoftext|>")

    def __iter__(self) -> Iterator[Batch]:
        while True:
            batches = self._pool(self.position.pool)
            while self.position.batch < len(batches):
                self.position.batch += 1
                yield self._collate(batches[self.position.batch - 1])
            self.position = Position(self.position.pool + 1, 0)

    def _pool(self, number: int) -> list[list[tuple[list[int], list[float]]]]:
        rng = random.Random(f"stream:{self._seed}:{number}")
        rows = sorted(
            self._encode([_conversation(rng) for _ in range(self._pool_len)]), key=lambda row: len(row[0])
        )
        batches: list[list[tuple[list[int], list[float]]]] = [[]]
        for row in rows:
            if (len(batches[-1]) + 1) * _bucket(len(row[0])) > self._batch_tokens and batches[-1]:
                batches.append([])
            batches[-1].append(row)
        if len(batches) > 1 and len(batches[-1]) * _bucket(len(batches[-1][-1][0])) < self._batch_tokens // 2:
            batches.pop()
        rng.shuffle(batches)
        return batches

    def _encode(self, conversations: list[list[tuple[str, bool]]]) -> list[tuple[list[int], list[float]]]:
        pieces = [text for conversation in conversations for text, _ in conversation]
        encoded = iter(self._tokenizer(pieces, add_special_tokens=False)["input_ids"])
        rows = []
        for conversation in conversations:
            ids: list[int] = []
            weights: list[float] = []
            for _, learn in conversation:
                piece = next(encoded)
                ids += piece
                weights += [1.0 if learn else PROMPT_WEIGHT] * len(piece)
            rows.append((ids, weights))
        return rows

    def _collate(self, rows: list[tuple[list[int], list[float]]]) -> Batch:
        longest = _bucket(max(len(ids) for ids, _ in rows))
        ids_BT = torch.tensor([ids + [self._pad] * (longest - len(ids)) for ids, _ in rows])
        weights_BT = torch.tensor([weights + [0.0] * (longest - len(weights)) for _, weights in rows])
        return Batch(ids_BT, weights_BT, len(rows) * longest)


def _bucket(length: int) -> int:
    return -(-length // BUCKET) * BUCKET


def _conversation(rng: random.Random) -> list[tuple[str, bool]]:
    """Text parts of one conversation, each with whether it is an answer."""
    pieces = []
    if rng.random() < SYSTEM_SHARE:
        pieces.append((SYSTEM + rng.choice(SYSTEM_MESSAGES) + END, False))
    for _ in range(2 if rng.random() < SECOND_TURN_SHARE else 1):
        task = rng.choices(list(SHARES), list(SHARES.values()))[0]
        example = generate(task, rng)
        pieces += [(USER + example.prompt + END + ASSISTANT, False), (example.answer + END, True)]
    return pieces
