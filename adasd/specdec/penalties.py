"""Penalties: what a text holds already makes its tokens less likely (or more), before everything else of the transform.

As vLLM's: repetition over prompt and answer (Keskar et al., arXiv:1909.05858, also transformers'
RepetitionPenaltyLogitsProcessor), then frequency and presence over the answer (OpenAI's). Only the columns of
tokens that were seen are touched.
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
    """How often each token seen comes before each of J positions."""

    ids_U: NDArray[np.int64]
    text_JU: NDArray[np.float32]  # in prompt and answer; zeros without a repetition penalty
    answer_JU: NDArray[np.float32]  # in the answer


def has_penalties(transform: SamplingTransform) -> bool:
    """Whether the distribution depends on how often a token was seen."""
    return bool(
        transform.presence_penalty or transform.frequency_penalty or transform.repetition_penalty != 1.0
    )


class TokenCounts:
    """How often each token was seen in one session's text; goes forth and back with it.

    ``vocab_size``: ids from there on have no logits and are not counted. A token that is gone again keeps its
    place in the table, with a count of 0, which changes nothing.
    """

    def __init__(self, transform: SamplingTransform, vocab_size: int) -> None:
        self._answer_from, self._vocab_size = transform.answer_from, vocab_size
        self._of_prompt = transform.repetition_penalty != 1.0
        self._place: dict[int, int] = {}
        self._ids = np.zeros(64, np.int64)
        self._counts = np.zeros((2, 64), np.float32)  # in the text, in the answer

    def extend(self, tokens: Sequence[int], at: int) -> None:
        """``tokens`` follow from position ``at`` on."""
        self._count(tokens, at, 1.0)

    def cut(self, tokens: Sequence[int], at: int) -> None:
        """``tokens``, the last of the text from position ``at`` on, are gone."""
        self._count(tokens, at, -1.0)

    def ahead(self, tokens: Sequence[int], at: int, num_rows: int) -> SeenCounts:
        """What was seen before each of the last ``num_rows`` positions once ``tokens`` follow.

        The last row is for the position behind all of ``tokens``, the one before for the last of them, ...
        """
        steps = self._countable(tokens, at)
        size = len(self._place)
        counts_2JU = np.repeat(self._counts[:, None, :size], num_rows, axis=1)
        first = len(tokens) - num_rows + 1  # tokens before the first row
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
