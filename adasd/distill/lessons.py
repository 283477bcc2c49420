"""Batches to learn from: all answers of the shards, in another order in every epoch.

Shapes: B rows, T tokens, N places at which the target said something, K tokens that it thought of there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adasd.distill.answers import Answer

POOL = 512  # answers that are sorted by length together
BUCKET = 16


@dataclass(frozen=True, slots=True)
class Batch:
    """``places_N`` are positions in the flattened (B * T), at each of which the next token is predicted."""

    ids_BT: Tensor
    places_N: Tensor
    top_ids_NK: Tensor
    top_logprobs_NK: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same there."""
        parts = self.ids_BT, self.places_N, self.top_ids_NK, self.top_logprobs_NK
        return Batch(*(part.to(device) for part in parts))


def epoch(answers: Sequence[Answer], number: int, batch_tokens: int, top_k: int) -> Iterator[Batch]:
    """Every answer once, in batches of about ``batch_tokens`` padded tokens; a function of its arguments."""
    rng = random.Random(f"epoch:{number}")
    order = rng.sample(range(len(answers)), len(answers))
    for first in range(0, len(order), POOL):
        pool = sorted(order[first : first + POOL], key=lambda at: len(answers[at].ids))
        groups: list[list[int]] = [[]]
        for at in pool:
            if groups[-1] and (len(groups[-1]) + 1) * _bucket(len(answers[at].ids)) > batch_tokens:
                groups.append([])
            groups[-1].append(at)
        rng.shuffle(groups)
        for group in groups:
            yield collate([answers[at] for at in group], top_k)


def collate(answers: Sequence[Answer], top_k: int) -> Batch:
    """One batch, padded on the right: what comes before never sees it."""
    longest = _bucket(max(len(one.ids) for one in answers))
    ids_BT = torch.zeros(len(answers), longest, dtype=torch.long)
    places = []
    for row, one in enumerate(answers):
        ids_BT[row, : len(one.ids)] = torch.tensor(one.ids)
        start = row * longest + one.prompt_len - 1
        places.append(torch.arange(start, start + len(one.top_ids_AK)))
    return Batch(
        ids_BT,
        torch.cat(places),
        torch.cat([one.top_ids_AK[:, :top_k] for one in answers]).long(),
        torch.cat([one.top_logprobs_AK[:, :top_k] for one in answers]).float(),
    )


def counts(answers: Sequence[Answer], vocab_size: int) -> Tensor:
    """(V,): how often each token stands in the answers."""
    said = torch.tensor([id_ for one in answers for id_ in one.ids[one.prompt_len :]])
    return torch.bincount(said, minlength=vocab_size)


def _bucket(length: int) -> int:
    return -(-length // BUCKET) * BUCKET
