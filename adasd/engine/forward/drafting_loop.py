"""Drafts several tokens without the host: each drafted token is recorded, checked by the stop rule and fed again.

State lies in tensors of fixed shape, so that one turn of plain greedy drafting can be one CUDA graph. A sequence that
has stopped goes on as padding. The slow twin is drafting one token per engine step (``sampler.propose_next`` and
``adasd.stop_rule.stops``).
Shape letters: R sequences, V vocabulary, E entries of the longest top-k distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from adasd.engine.forward.padded import Padded
from adasd.engine.sampling.multi_step_draft import rule_from_here
from adasd.engine.scheduler import LONGEST_DRAFT
from adasd.engine.work import DraftWork, Proposed, StepInput, wants_runner_ups
from adasd.rounds import ENTROPY_EDGES, SamplingTransform
from adasd.specdec.distributions import TransformBatch, masked_logits
from adasd.specdec.draft_step import Proposal, propose
from adasd.stop_rule import NO_TABLE

_NUM_SIGNALS = (
    5  # token, runner-up token, entropy, largest probability, whether the sequence was still drafting
)


class DraftingLoop:
    """Drafts for up to R sessions in a pass of R tokens; a turn chooses tokens and prepares the next pass."""

    def __init__(self, step: Padded) -> None:
        self.step = step
        num, device = step.num_tokens, step.ids_T.device
        self._turn_1 = torch.zeros(1, dtype=torch.long, device=device)
        self._alive_R = torch.zeros(num, dtype=torch.bool, device=device)
        # in double precision, like ``stops`` on the host
        self._rules_3R = torch.zeros(3, num, dtype=torch.float64, device=device)
        self._edges = torch.tensor(ENTROPY_EDGES, dtype=torch.float64, device=device)
        num_bins = len(ENTROPY_EDGES) + 1
        self._tables_2RB = torch.zeros(2, num, num_bins, dtype=torch.float64, device=device)
        self._price_R = torch.zeros(num, dtype=torch.float64, device=device)
        self._survival_R = torch.ones(num, dtype=torch.float64, device=device)
        self._base_R = torch.zeros(num, dtype=torch.long, device=device)
        self._signals = torch.zeros(LONGEST_DRAFT, num, _NUM_SIGNALS, dtype=torch.float64, device=device)
        self._greedy = TransformBatch.build([SamplingTransform(temperature=0.0)] * num, [0] * num, device)
        self._no_rows = [0] * num

    def begin(self, works: Sequence[DraftWork], inputs: Sequence[StepInput]) -> None:
        """Start drafting for these sessions; the next turn gets their first logits."""
        num, idle = self.step.num_tokens, self.step.num_tokens - len(inputs)
        self.step.fill([StepInput(one.slot, 0, (0,), 1) for one in inputs])
        rules = [rule_from_here(work) for work in works]
        given: list[list[float]] = [
            [rule.max_tokens for rule in rules],
            [rule.entropy_ceiling for rule in rules],
            [rule.confidence_floor for rule in rules],
            [one.end for one in inputs],
        ]
        padded = torch.tensor([[*numbers, *[0] * idle] for numbers in given], dtype=torch.float64)
        padded = padded.to(self._base_R.device, non_blocking=True)
        self._rules_3R.copy_(padded[:3])
        tables = [rule.table or NO_TABLE for rule in rules] + [NO_TABLE] * idle
        packed = torch.tensor(
            [[(*table.chances, *table.next_chances, table.price) for table in tables]], dtype=torch.float64
        )[0].to(self._base_R.device, non_blocking=True)
        num_bins = self._tables_2RB.shape[-1]
        self._tables_2RB[0].copy_(packed[:, :num_bins])
        self._tables_2RB[1].copy_(packed[:, num_bins:-1])
        self._price_R.copy_(packed[:, -1])
        self._survival_R.fill_(1.0)
        self._base_R.copy_(padded[3])
        self._alive_R.copy_(torch.arange(num, device=self._alive_R.device) < len(inputs))
        self._turn_1.zero_()

    def decide_greedily(self, logits_RV: Tensor) -> None:
        """One turn for sessions that take the largest logit and send no distributions."""
        # always with runner-up tokens: one recording serves all sessions
        proposal = propose(logits_RV.float(), self._greedy, self._no_rows, want_runner_ups=True)
        self._note(proposal, logits_RV)

    def decide(self, logits_RV: Tensor, sampler: TurnSampler) -> None:
        """One turn for any sessions without a logits state."""
        self._note(sampler.propose(logits_RV), logits_RV)

    def _note(self, proposal: Proposal, logits_RV: Tensor) -> None:
        """Record the tokens and their signals; sequences that go on feed their token next."""
        broken_R = ~logits_RV.sum(-1, dtype=torch.float32).isfinite()
        entropy_R = proposal.entropies_N.double().masked_fill(broken_R, torch.nan)
        max_prob_R = proposal.max_probs_N.double()
        runner_ups_N = proposal.tokens_N if proposal.runner_ups_N is None else proposal.runner_ups_N
        choices = proposal.tokens_N.double(), runner_ups_N.double()
        signals = torch.stack([*choices, entropy_R, max_prob_R, self._alive_R.double()], -1)
        self._signals.index_copy_(0, self._turn_1, signals[None])
        max_tokens_R, ceiling_R, floor_R = self._rules_3R
        stops_R = (self._turn_1 + 1 >= max_tokens_R) | (entropy_R > ceiling_R) | (max_prob_R < floor_R)
        stops_R |= self._next_chance(entropy_R) <= self._price_R
        self._alive_R &= ~(stops_R | broken_R)
        idle_R = ~self._alive_R
        position_R = self._base_R + self._turn_1
        self.step.go_to(proposal.tokens_N, position_R, idle_R)
        self._turn_1 += 1

    def _next_chance(self, entropy_R: Tensor) -> Tensor:
        """``stop_rule.next_chance`` after one more token."""
        bin_R1 = torch.bucketize(entropy_R, self._edges, right=True)[:, None]
        self._survival_R *= self._tables_2RB[0].gather(1, bin_R1)[:, 0]
        return self._survival_R * self._tables_2RB[1].gather(1, bin_R1)[:, 0]

    def drafted(
        self, num_turns: int, num_sessions: int, sampler: TurnSampler | None
    ) -> list[list[Proposed | None]]:
        """A list per turn: each session's token, or None once it has ended. This is the only copy to the host."""
        found = self._signals[:num_turns, :num_sessions]
        if sampler is not None and sampler.ids:
            sent = [torch.stack(each)[:, :num_sessions].double() for each in (sampler.ids, sampler.logprobs)]
            found = torch.cat([found, *sent], -1)
        on_host = found.cpu()
        signals = on_host[..., :_NUM_SIGNALS].tolist()
        ids, logprobs = on_host[..., _NUM_SIGNALS:].chunk(2, -1)
        ids_np, logprobs_np = ids.int().numpy(), logprobs.float().numpy()

        def proposed(turn: int, n: int) -> Proposed | None:
            token, other, entropy, max_prob, alive = signals[turn][n]
            if not alive:
                return None
            if sampler is None or not sampler.ids:
                return Proposed(int(token), entropy, max_prob, other=int(other))
            own = slice(sampler.row_lens[n])
            sent = ids_np[turn, n, own].copy(), logprobs_np[turn, n, own].copy()
            return Proposed(int(token), entropy, max_prob, *sent, int(other))

        return [[proposed(turn, n) for n in range(num_sessions)] for turn in range(num_turns)]


class TurnSampler:
    """Drafts for sessions of any kind, turn after turn: their transforms, and the distributions that they send."""

    def __init__(
        self, works: Sequence[DraftWork], num_sequences: int, device: torch.device, generator: torch.Generator
    ) -> None:
        filled = [
            *works,
            *[works[-1]] * (num_sequences - len(works)),
        ]  # pad with the last session
        self._transforms = [work.transform for work in filled]
        self._positions = [work.base_len + len(work.proposed) for work in filled]
        self._batch = TransformBatch.build(self._transforms, self._positions, device)
        self._generator = generator
        self.row_lens = [work.call.rule.row_len for work in filled]
        self._want_runner_ups = wants_runner_ups(works)
        self.ids: list[Tensor] = []  # of every turn [R, E]
        self.logprobs: list[Tensor] = []

    def propose(self, logits_RV: Tensor) -> Proposal:
        """The tokens of the next turn."""
        masked_RV = masked_logits(logits_RV, self._transforms, self._positions)
        proposal = propose(
            masked_RV, self._batch, self.row_lens, self._generator, want_runner_ups=self._want_runner_ups
        )
        if proposal.top_ids_NR is not None and proposal.top_logprobs_NR is not None:
            self.ids.append(proposal.top_ids_NR)
            self.logprobs.append(proposal.top_logprobs_NR)
        self._positions = [position + 1 for position in self._positions]
        self._batch = replace(self._batch, position_N=self._batch.position_N + 1)
        return proposal
