"""Drafts several tokens without the host: each drafted token is recorded, checked by the stop rule and fed again.

State lies in tensors of fixed shape, so that one turn of drafting, with the choice of the token and the stop rule, can
be one CUDA graph. A sequence that has stopped goes on as padding. The slow twin is drafting one token per engine step
(``sampler.propose_next`` and ``adasd.stop_rule.stops``).
Shape letters: R sequences, V vocabulary, E entries of the longest top-k distribution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adasd.engine.forward.padded import Padded
from adasd.engine.sampling.multi_step_draft import rule_from_here
from adasd.engine.scheduler import LONGEST_DRAFT
from adasd.engine.work import DraftWork, Proposed, StepInput
from adasd.rounds import ENTROPY_EDGES
from adasd.specdec.draft_step import Proposal
from adasd.specdec.turns import NUM_CHANGES, NUM_ENTRIES, TurnKind, TurnSampling, num_changes
from adasd.stop_rule import NO_TABLE

_NUM_SIGNALS = (
    5  # token, runner-up token, entropy, largest probability, whether the sequence was still drafting
)


class DraftingLoop:
    """Drafts for up to R sessions in a pass of R tokens; a turn chooses tokens and prepares the next pass.

    ``changes`` and ``entries``: room for single changes of logits, and for entries of top-k distributions.
    """

    def __init__(
        self, step: Padded, vocab_size: int, changes: int = NUM_CHANGES, entries: int = NUM_ENTRIES
    ) -> None:
        self.step, self.vocab_size = step, vocab_size
        entries = min(entries, vocab_size)
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
        self._rows = torch.zeros(LONGEST_DRAFT, num, 2 * entries, dtype=torch.float64, device=device)
        self._sampling = TurnSampling(num, LONGEST_DRAFT, device, changes, entries)
        self._row_lens: list[int] = []  # of the sessions; empty: no distributions are noted

    def serves(self, works: Sequence[DraftWork]) -> bool:
        """Whether there is room for what these sessions need."""
        room = self._sampling
        return all(
            num_changes(work.transform) <= room.num_changes
            and min(work.call.rule.row_len, self.vocab_size) <= room.num_entries
            for work in works
        )

    def begin(
        self,
        works: Sequence[DraftWork],
        inputs: Sequence[StepInput],
        kind: TurnKind,
        generator: torch.Generator,
    ) -> None:
        """Start drafting for these sessions by turns of this kind; the next turn gets their first logits."""
        self._row_lens = []
        if kind is not TurnKind.LARGEST:
            self._row_lens = [work.call.rule.row_len for work in works]
            transforms = [work.transform for work in works]
            self._sampling.fill(transforms, self._row_lens, self.vocab_size, generator)
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

    def decide(self, logits_RV: Tensor, kind: TurnKind) -> None:
        """One turn: choose tokens, apply the stop rules, and prepare the next pass."""
        position_R = self._base_R + self._turn_1
        self._note(self._sampling.propose(logits_RV, kind, position_R, self._turn_1), logits_RV)

    def _note(self, proposal: Proposal, logits_RV: Tensor) -> None:
        """Record the tokens and their signals; sequences that go on feed their token next."""
        broken_R = ~logits_RV.sum(-1, dtype=torch.float32).isfinite()
        entropy_R = proposal.entropies_N.double().masked_fill(broken_R, torch.nan)
        max_prob_R = proposal.max_probs_N.double()
        assert proposal.runner_ups_N is not None, "one recording serves all sessions"
        choices = proposal.tokens_N.double(), proposal.runner_ups_N.double()
        if proposal.top_ids_NR is not None and proposal.top_logprobs_NR is not None:
            rows = torch.cat([proposal.top_ids_NR.double(), proposal.top_logprobs_NR.double()], -1)
            self._rows.index_copy_(0, self._turn_1, rows[None])
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

    def drafted(self, num_turns: int, num_sessions: int) -> list[list[Proposed | None]]:
        """A list per turn: each session's token, or None once it has ended. This is the only copy to the host."""
        found, sent = self._signals[:num_turns, :num_sessions], any(self._row_lens)
        if sent:
            found = torch.cat([found, self._rows[:num_turns, :num_sessions]], -1)
        on_host = found.cpu()
        signals = on_host[..., :_NUM_SIGNALS].tolist()
        ids, logprobs = on_host[..., _NUM_SIGNALS:].chunk(2, -1)
        ids_np, logprobs_np = ids.int().numpy(), logprobs.float().numpy()

        def proposed(turn: int, n: int) -> Proposed | None:
            token, other, entropy, max_prob, alive = signals[turn][n]
            if not alive:
                return None
            if not sent:
                return Proposed(int(token), entropy, max_prob, other=int(other))
            own = slice(self._row_lens[n])
            row = ids_np[turn, n, own].copy(), logprobs_np[turn, n, own].copy()
            return Proposed(int(token), entropy, max_prob, *row, int(other))

        return [[proposed(turn, n) for n in range(num_sessions)] for turn in range(num_turns)]
