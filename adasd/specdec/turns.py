"""One drafted token of many sequences in fixed shapes: no decision of the host, so that a recording can repeat it.

The slow twin is ``draft_step.propose``. Random numbers come from outside, as a recording would repeat them.
Shape letters: R sequences, V vocabulary, E entries of a top-k distribution, C changes of single logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from adasd.rounds import SamplingTransform
from adasd.specdec.distributions import Kind, kind_of, signed_seed, truncate_row
from adasd.specdec.divergence import entropy
from adasd.specdec.draft_step import Proposal, race, runner_up
from adasd.specdec.noise import coupled_race

NUM_CHANGES = 64
"""Biases and forbidden ends of sequence per sequence that a recorded turn has room for."""

NUM_ENTRIES = 128
"""Entries of the longest top-k distribution that a recorded turn has room for."""

RACES_AT_ONCE = 16
"""Sequences whose noise is made at once; that of hundreds would take gigabytes."""

_FOR_EVER = 2**62


class TurnKind(IntEnum):
    """What a turn has to compute; each one serves the sequences of those before it, too."""

    LARGEST = 0  # the largest logit, and no distribution is sent
    ROWS = 1  # top-k distributions are sent, and drawn from; logits may be changed
    SEEDED = 2  # a race over the whole vocabulary, with the noise of a seed


def kind_of_turn(transforms: Sequence[SamplingTransform], all_take_largest: bool) -> TurnKind:
    """The cheapest kind of turn that serves these sequences."""
    if all_take_largest:
        return TurnKind.LARGEST
    seeded = any(kind_of(transform) is Kind.COUPLED for transform in transforms)
    return TurnKind.SEEDED if seeded else TurnKind.ROWS


def num_changes(transform: SamplingTransform) -> int:
    """Logits that a transform changes one by one."""
    return len(transform.logit_bias) + len(transform.eos_ids)


class TurnSampling:
    """The transforms of R sequences as tensors that never move, and the noise of several turns."""

    def __init__(
        self, num_sequences: int, num_turns: int, device: torch.device, changes: int, entries: int
    ) -> None:
        self.num_changes, self.num_entries = changes, entries
        # temperature, top-p, min-p, what is added to single logits
        self._reals_RN = torch.zeros(num_sequences, 3 + changes, device=device)
        # top-k, seed, entries sent, whether sampled, whether seeded; then tokens, and until which positions
        self._whole_RN = torch.zeros(num_sequences, 5 + 2 * changes, dtype=torch.long, device=device)
        self._shape_3R, self._amounts_RC = self._reals_RN[:, :3].T, self._reals_RN[:, 3:]
        self._top_k_R, self._seed_R, self._row_len_R, self._sampled_R, self._seeded_R = self._whole_RN[
            :, :5
        ].unbind(1)
        self._ids_RC, self._until_RC = self._whole_RN[:, 5 : 5 + changes], self._whole_RN[:, 5 + changes :]
        self._expo_TRE = torch.ones(num_turns, num_sequences, entries, device=device)

    def fill(
        self,
        transforms: Sequence[SamplingTransform],
        row_lens: Sequence[int],
        vocab_size: int,
        generator: torch.Generator,
    ) -> None:
        """Take these sequences, at most R, by two copies; and fresh noise, by one kernel."""
        device = self._reals_RN.device
        reals = np.zeros(self._reals_RN.shape, np.float32)
        reals[:, 0] = 1.0
        whole = np.zeros(self._whole_RN.shape, np.int64)
        for n, (transform, row_len) in enumerate(zip(transforms, row_lens, strict=True)):
            kind, changes = kind_of(transform), _changes(transform, vocab_size)
            reals[n, :3] = transform.temperature or 1.0, transform.top_p, transform.min_p
            whole[n, 0] = transform.top_k
            whole[n, 1] = signed_seed(transform.seed or 0)
            whole[n, 2:5] = row_len, kind is Kind.SAMPLED, kind is Kind.COUPLED
            for at, (token, amount, until) in enumerate(changes):
                reals[n, 3 + at] = amount
                whole[n, [5 + at, 5 + self.num_changes + at]] = token, until
        self._reals_RN.copy_(torch.from_numpy(reals).to(device, non_blocking=True))
        self._whole_RN.copy_(torch.from_numpy(whole).to(device, non_blocking=True))
        self._expo_TRE.exponential_(generator=generator)

    def propose(self, logits_RV: Tensor, kind: TurnKind, position_R: Tensor, turn_1: Tensor) -> Proposal:
        """The next token of each sequence: its position, and which of the turns this is; always with runner-ups."""
        logits_RV = logits_RV.float()
        if kind is TurnKind.LARGEST:
            tokens_R, probs_RV = logits_RV.argmax(-1), torch.softmax(logits_RV, dim=-1)
            others_R = runner_up(logits_RV, tokens_R, tokens_R)
            return Proposal(tokens_R, entropy(probs_RV), probs_RV.amax(-1), None, None, others_R)
        amounts_RC = self._amounts_RC.where(position_R[:, None] < self._until_RC, 0.0)
        masked_RV = logits_RV.scatter_add(1, self._ids_RC, amounts_RC)
        probs_RV, tokens_R = torch.softmax(masked_RV, dim=-1), masked_RV.argmax(-1)
        ids_RE, logprobs_RE = truncate_row(masked_RV, self.num_entries)
        beyond_RE = torch.arange(ids_RE.shape[1], device=ids_RE.device) >= self._row_len_R[:, None]
        logprobs_RE = logprobs_RE.masked_fill(beyond_RE, -torch.inf)
        expo_RE = self._expo_TRE.index_select(0, turn_1)[0, :, : ids_RE.shape[1]]
        entry_R1 = race(self._shaped(logprobs_RE), expo_RE)[:, None]
        seeded_R = self._seeded_R.bool()
        tokens_R = torch.where(self._sampled_R.bool(), ids_RE.gather(1, entry_R1)[:, 0].long(), tokens_R)
        others_R = runner_up(masked_RV, tokens_R, tokens_R)
        if kind is TurnKind.SEEDED:
            first_R, second_R = self._race(masked_RV, position_R)
            tokens_R = torch.where(seeded_R, first_R, tokens_R)
            others_R = torch.where(seeded_R, second_R, others_R)
        return Proposal(tokens_R, entropy(probs_RV), probs_RV.amax(-1), ids_RE, logprobs_RE, others_R)

    def _race(self, masked_RV: Tensor, position_R: Tensor) -> tuple[Tensor, Tensor]:
        """First and second of the races under the seeds, a few sequences at a time: noise takes many bytes."""
        firsts, seconds = [], []
        for start in range(0, len(masked_RV), RACES_AT_ONCE):
            some = slice(start, start + RACES_AT_ONCE)
            masked = masked_RV[some]
            times = coupled_race(self._shaped(masked, some), self._seed_R[some], position_R[some])
            first = times.argmin(-1)
            firsts.append(first)
            seconds.append(runner_up(-times, first, runner_up(masked, first, first)))
        return torch.cat(firsts), torch.cat(seconds)

    def _shaped(self, logits_RN: Tensor, some: slice = slice(None)) -> Tensor:
        temperature_R, top_p_R, min_p_R = self._shape_3R[:, some].unbind()
        return shaped_probs(logits_RN, temperature_R, top_p_R, min_p_R, self._top_k_R[some])


def shaped_probs(
    logits_RN: Tensor, temperature_R: Tensor, top_p_R: Tensor, min_p_R: Tensor, top_k_R: Tensor
) -> Tensor:
    """``distributions.transformed_probs`` of sequences that are not greedy, by operations of fixed shape: [R, N]."""
    largest_R1 = logits_RN.amax(-1, keepdim=True)
    tempered_RN = (logits_RN - largest_R1) / temperature_R[:, None].clamp_min(torch.finfo(torch.float32).tiny)
    num = logits_RN.shape[-1]
    falling_RN = tempered_RN.sort(dim=-1, descending=True).values
    last_R = torch.where(top_k_R > 0, top_k_R, num).clamp_max(num) - 1
    floor_R1 = falling_RN.gather(1, last_R[:, None])
    kept_RN = torch.softmax(falling_RN.masked_fill(falling_RN < floor_R1, -torch.inf), dim=-1)
    mass_before_RN = kept_RN.cumsum(-1) - kept_RN
    num_kept_R1 = (mass_before_RN < top_p_R[:, None]).sum(-1, keepdim=True).clamp_min(1)
    num_kept_R1 = num_kept_R1.where(top_p_R[:, None] < 1.0, num)
    floor_R1 = torch.maximum(floor_R1, falling_RN.gather(1, num_kept_R1 - 1))
    floor_R1 = torch.maximum(floor_R1, min_p_R.log()[:, None])
    return torch.softmax(tempered_RN.masked_fill(tempered_RN < floor_R1, -torch.inf), dim=-1)


def _changes(transform: SamplingTransform, vocab_size: int) -> list[tuple[int, float, int]]:
    """Token, what is added to its logit, and the first position at which that no longer holds."""
    biases = [(token, bias, _FOR_EVER) for token, bias in transform.logit_bias]
    ends = [(token, -torch.inf, transform.eos_from) for token in transform.eos_ids]
    return [change for change in (*biases, *ends) if change[0] < vocab_size]
