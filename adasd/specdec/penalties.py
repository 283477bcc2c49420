"""Penalties: tokens already in the text become less (or more) likely; the first step of the sampling transform.

As vLLM's: repetition over prompt and answer (Keskar et al., arXiv:1909.05858, also transformers'
RepetitionPenaltyLogitsProcessor), then frequency and presence over the answer (OpenAI's). Only logits of tokens seen
are changed.
Shape letters: J positions (one distribution each), U tokens seen, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adasd.rounds import SamplingTransform


@dataclass(frozen=True, slots=True, eq=False)
class SeenCounts:
    """How often each seen token occurs before each of J positions."""

    ids_U: NDArray[np.int64]
    text_JU: NDArray[np.float32]  # in prompt and answer; zeros without a repetition penalty
    answer_JU: NDArray[np.float32]  # in the answer


def has_penalties(transform: SamplingTransform) -> bool:
    """Whether the transform has any penalty."""
    return bool(
        transform.presence_penalty or transform.frequency_penalty or transform.repetition_penalty != 1.0
    )


class TokenCounts:
    """How often each token occurs in one session's text, updated as the text grows and is rolled back.

    ``vocab_size``: ids from there on have no logits and are not counted. A token that was rolled back keeps its
    place in the table with a count of 0.
    """

    def __init__(self, transform: SamplingTransform, vocab_size: int) -> None:
        self._answer_from, self._vocab_size = transform.answer_from, vocab_size
        self._of_prompt = transform.repetition_penalty != 1.0
        self._place: dict[int, int] = {}
        self._ids = np.zeros(64, np.int64)
        self._counts = np.zeros((2, 64), np.float32)  # in the text, in the answer

    def extend(self, tokens: Sequence[int], at: int) -> None:
        """Append ``tokens``, which begin at position ``at``."""
        self._count(tokens, at, 1.0)

    def cut(self, tokens: Sequence[int], at: int) -> None:
        """Roll back ``tokens``, the end of the text from position ``at`` on."""
        self._count(tokens, at, -1.0)

    def ahead(self, tokens: Sequence[int], at: int, num_rows: int) -> SeenCounts:
        """Counts before each of the last ``num_rows`` positions of the text with ``tokens`` appended.

        The last entry is for the position after all of ``tokens``, the one before for their last token, and so on.
        """
        steps = self._countable(tokens, at)
        size = len(self._place)
        counts_2JU = np.repeat(self._counts[:, None, :size], num_rows, axis=1)
        first = len(tokens) - num_rows + 1  # tokens before the first position
        for i, place, in_answer in steps:
            row = max(0, i - first + 1)
            counts_2JU[0, row:, place] += 1.0
            counts_2JU[1, row:, place] += in_answer
        return SeenCounts(self._ids[:size].copy(), counts_2JU[0], counts_2JU[1])

    def _count(self, tokens: Sequence[int], at: int, amount: float) -> None:
        for _, place, in_answer in self._countable(tokens, at):
            self._counts[0, place] += amount
            self._counts[1, place] += amount * in_answer

    def _countable(self, tokens: Sequence[int], at: int) -> list[tuple[int, int, bool]]:
        """(index, place in the table, in the answer?) of the tokens that matter."""
        first = 0 if self._of_prompt else max(0, self._answer_from - at)
        return [
            (i, self._place_of(token), at + i >= self._answer_from)
            for i, token in enumerate(tokens[first:], first)
            if 0 <= token < self._vocab_size
        ]

    def _place_of(self, token: int) -> int:
        place = self._place.get(token)
        if place is None:
            place = self._place[token] = len(self._place)
            if place == len(self._ids):
                self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)], axis=1)
            self._ids[place] = token
        return place


def penalise(logits_JV: Tensor, seen: SeenCounts, transform: SamplingTransform) -> None:
    """Apply the transform's penalties to one session's float32 logits, in place."""
    if not len(seen.ids_U):
        return
    device = logits_JV.device
    ids_U = torch.from_numpy(seen.ids_U).to(device)
    text_JU, answer_JU = (torch.from_numpy(counts).to(device) for counts in (seen.text_JU, seen.answer_JU))
    logits_JU = logits_JV[:, ids_U]
    repetition = transform.repetition_penalty
    repeated_JU = torch.where(logits_JU > 0, logits_JU / repetition, logits_JU * repetition)
    logits_JU = torch.where(text_JU > 0, repeated_JU, logits_JU)
    logits_JU -= transform.frequency_penalty * answer_JU + transform.presence_penalty * (answer_JU > 0)
    logits_JV[:, ids_U] = logits_JU
