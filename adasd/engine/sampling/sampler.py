"""From logits to tokens: what drafts propose and what the target accepts, batched over sessions.

Shape letters: N drafting sessions, B judged sessions, J = K + 1 positions of the longest block, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adasd.engine.sampling.to_host import Pending
from adasd.engine.sampling.verdicts import Judge
from adasd.engine.work import DraftWork, Judged, Proposed, VerifyWork, wants_runner_ups
from adasd.rounds import SamplingTransform
from adasd.specdec.blocks import BlockBatch
from adasd.specdec.distributions import TransformBatch, masked_block_logits, masked_logits
from adasd.specdec.divergence import entropy
from adasd.specdec.draft_step import propose, runner_up
from adasd.specdec.verify import Judgement, draw_random_numbers, judge


def propose_next(
    works: Sequence[DraftWork], logits_NV: Tensor, generator: torch.Generator
) -> Pending[list[Proposed]]:
    """The next drafted token of every session, from the logits of one position each."""
    if all(work.transform.greedy and not work.call.rule.row_len for work in works):
        return propose_greedily(works, logits_NV)
    return propose_generally(works, logits_NV, generator)


def propose_generally(
    works: Sequence[DraftWork], logits_NV: Tensor, generator: torch.Generator
) -> Pending[list[Proposed]]:
    """``propose_next`` for any mix of sessions."""
    transforms, positions = _next_positions(works)
    row_lens = [work.call.rule.row_len for work in works]
    batch = TransformBatch.build(transforms, positions, logits_NV.device)
    masked_NV, want_runner_ups = masked_logits(logits_NV, transforms, positions), wants_runner_ups(works)
    proposal = propose(masked_NV, batch, row_lens, generator, want_runner_ups=want_runner_ups)
    signals = [proposal.tokens_N, proposal.entropies_N, proposal.max_probs_N]
    if proposal.runner_ups_N is not None:
        signals.append(proposal.runner_ups_N)
    if proposal.top_ids_NR is None or proposal.top_logprobs_NR is None:
        return Pending(tuple(signals), lambda on_host: _proposed(_lists(on_host)))

    def with_rows(on_host: Sequence[Tensor]) -> list[Proposed]:
        *found, row_ids, row_logprobs = on_host
        return _proposed(_lists(found), own_rows(row_ids, row_logprobs, row_lens))

    return Pending((*signals, proposal.top_ids_NR, proposal.top_logprobs_NR), with_rows)


def propose_greedily(works: Sequence[DraftWork], logits_NV: Tensor) -> Pending[list[Proposed]]:
    """``propose_next`` for greedy sessions that send no distributions: the fast twin, without sampling."""
    masked_NV = masked_logits(logits_NV, *_next_positions(works))
    probs_NV, tokens_N = torch.softmax(masked_NV, dim=-1), masked_NV.argmax(dim=-1)
    others = [runner_up(masked_NV, tokens_N, tokens_N)] if wants_runner_ups(works) else []
    signals = (tokens_N, entropy(probs_NV), probs_NV.amax(dim=-1), *others)
    return Pending(signals, lambda on_host: _proposed(_lists(on_host)))


def own_rows(
    ids_NR: Tensor, logprobs_NR: Tensor, row_lens: Sequence[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids and log-probabilities of N top-k distributions on the host, each of its own length; not views."""
    ids, logprobs = ids_NR.numpy(), logprobs_NR.numpy()
    return [(ids[n, :row_len].copy(), logprobs[n, :row_len].copy()) for n, row_len in enumerate(row_lens)]


def _proposed(
    signals: list[list[Any]], sent: list[tuple[np.ndarray, np.ndarray]] | None = None
) -> list[Proposed]:
    """From lists of tokens, entropies, largest probabilities and, if wanted, runner-ups; ``sent``: distributions."""
    nothing = [(None, None)] * len(signals[0])
    return [
        Proposed(token, entropy, max_prob, *distribution, *other)
        for (token, entropy, max_prob, *other), distribution in zip(
            zip(*signals, strict=True), sent or nothing, strict=True
        )
    ]


def _lists(on_host: Sequence[Tensor]) -> list[list[Any]]:
    return [tensor.tolist() for tensor in on_host]


def _next_positions(works: Sequence[DraftWork]) -> tuple[list[SamplingTransform], list[int]]:
    """Sampling transform and position of every session's next drafted token."""
    return [work.transform for work in works], [work.base_len + len(work.proposed) for work in works]


def choose_greedily(works: Sequence[VerifyWork], logits_NV: Tensor) -> Pending[list[Judged]]:
    """``judge_blocks`` for greedy sessions without relaxation: a token is accepted if it has the largest logit.

    The fast twin: no padding, no randomness, one pass over the logits.
    """
    transforms = [work.transform for work in works for _ in range(len(work.call.block) + 1)]
    positions = [work.base_len + i for work in works for i in range(len(work.call.block) + 1)]
    choices_N = masked_logits(logits_NV, transforms, positions).argmax(dim=-1)
    return Pending((choices_N,), lambda on_host: _compare(works, on_host[0].tolist()))


def _compare(works: Sequence[VerifyWork], choices: list[int]) -> list[Judged]:
    """Verdicts from the largest logit's token at every position of every block."""
    verdicts, first = [], 0
    for work in works:
        block = work.call.block
        ours = choices[first : first + len(block) + 1]
        first += len(ours)
        num = next((i for i, token in enumerate(block) if token != ours[i]), len(block))
        exact_ok = (True,) * num + (False,) * (num < len(block))
        verdicts.append(Judged(num, ours[num], (False,) * num, exact_ok))
    return verdicts


def is_plainly_greedy(work: VerifyWork) -> bool:
    """Whether ``choose_greedily`` may judge this call."""
    rule = work.call.rule
    return work.transform.greedy and rule.is_exact and not rule.want_distances


def judge_blocks(
    works: Sequence[VerifyWork], logits: Tensor, generator: torch.Generator, judge: Judge = judge
) -> Pending[list[Judged]]:
    """Verdicts from the logits [sum of (1 + block length), V], concatenated by session."""
    if all(map(is_plainly_greedy, works)):
        return choose_greedily(works, logits)
    return judge_generally(works, logits, generator, judge)


def judge_generally(
    works: Sequence[VerifyWork], logits: Tensor, generator: torch.Generator, judge: Judge = judge
) -> Pending[list[Judged]]:
    """Verdicts for any mix of sessions, padded to the longest block."""
    transforms = [work.transform for work in works]
    base_lens = [work.base_len for work in works]
    blocks = BlockBatch.pack(
        [work.call.block for work in works], [work.call.distributions for work in works], logits.device
    )
    rules = [work.call.rule for work in works]
    batch = TransformBatch.build(transforms, base_lens, logits.device)
    logits_BJV = masked_block_logits(_padded(logits, blocks.lens), transforms, base_lens)
    num_drafted, vocab_size = logits_BJV.shape[1] - 1, logits_BJV.shape[2]
    chance = draw_random_numbers(batch, rules, num_drafted, vocab_size, generator)
    return _pending(judge(logits_BJV, blocks, batch, rules, chance), works, blocks.lens)


def _padded(logits: Tensor, lens: Sequence[int]) -> Tensor:
    """[sum of (1 + len), V] -> [B, J, V]; short blocks repeat their last position."""
    longest = max(lens) + 1
    if all(num + 1 == longest for num in lens):
        return logits.view(len(lens), longest, -1)
    first, places = 0, []
    for num in lens:
        places.append([first + min(i, num) for i in range(longest)])
        first += num + 1
    return logits[torch.tensor(places, device=logits.device)]


def _pending(judgement: Judgement, works: Sequence[VerifyWork], lens: Sequence[int]) -> Pending[list[Judged]]:
    if not any(lens):
        return Pending(
            (judgement.next_token_B,), lambda on_host: [Judged(0, token) for token in on_host[0].tolist()]
        )
    decided = (
        judgement.num_accepted_B,
        judgement.next_token_B,
        judgement.relaxed_BK,
        judgement.exact_ok_BK,
        judgement.distance_BK,
        judgement.distortion_B,
    )
    return Pending(decided, lambda on_host: _unpack(on_host, works, lens))


def _unpack(on_host: Sequence[Tensor], works: Sequence[VerifyWork], lens: Sequence[int]) -> list[Judged]:
    num_accepted, next_tokens, relaxed, exact_ok, distances, distortion = _lists(on_host)
    wants = [work.call.rule.want_distances for work in works]
    verdicts = []
    for b, (num, length) in enumerate(zip(num_accepted, lens, strict=True)):
        num_judged = min(num + 1, length)
        verdicts.append(
            Judged(
                num,
                next_tokens[b],
                tuple(relaxed[b][:num]),
                tuple(exact_ok[b][:num_judged]),
                tuple(distances[b][:num_judged]) if wants[b] else (),
                distortion=distortion[b],
            )
        )
    return verdicts


def not_finite(logits: Tensor) -> Pending[list[bool]]:
    """Per position of [N, V]: whether there are NaNs or infinities, as from broken weights or overflow."""
    return Pending(
        (logits.sum(-1, dtype=torch.float32),),
        lambda on_host: [not math.isfinite(total) for total in on_host[0].tolist()],
    )
