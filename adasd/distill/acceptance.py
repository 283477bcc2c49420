"""How much of a draft's greedy blocks a greedy target accepts, from one pass over each of its answers.

As long as a block agrees with the target, its context *is* the target's text: the draft's first choices along
the answer tell what every block would be.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from adasd.demo.agreement import GreedyAgreement
from adasd.distill.answers import Answer
from adasd.distill.lessons import epoch

BLOCK_LEN = 5
BATCH_TOKENS = 4096


@torch.inference_mode()
def measure(
    draft: LlamaForCausalLM, answers: Sequence[Answer], block_len: int = BLOCK_LEN
) -> GreedyAgreement:
    """Rounds along greedy ``answers``, with blocks of ``block_len`` or up to the end of the answer."""
    drafted, accepted = [0] * block_len, [0] * block_len
    num_rounds = 0
    draft.train(False)
    for batch in epoch(answers, 0, BATCH_TOKENS, 1):
        batch = batch.to(draft.device)
        with torch.autocast(draft.device.type, torch.bfloat16, enabled=draft.device.type == "cuda"):
            hidden = draft.model(input_ids=batch.ids_BT, use_cache=False).last_hidden_state
            logits_NV = draft.lm_head(hidden.flatten(0, 1)[batch.places_N])
        said_N = batch.ids_BT.flatten()[batch.places_N + 1]
        for agrees in _by_answer(logits_NV.argmax(-1) == said_N, batch.places_N):
            at = 0
            while at < len(agrees):
                block = agrees[at : at + block_len]
                agreed = block.index(False) if False in block else len(block)
                num_rounds += 1
                for position in range(len(block)):
                    drafted[position] += 1
                    accepted[position] += position < agreed
                at += agreed + 1
    return GreedyAgreement(num_rounds, tuple(drafted), tuple(accepted))


def _by_answer(agrees_N: Tensor, places_N: Tensor) -> list[list[bool]]:
    """Split where the places of the next answer begin."""
    jumps = (places_N[1:] != places_N[:-1] + 1).nonzero()[:, 0] + 1
    return [part.tolist() for part in agrees_N.cpu().tensor_split(jumps.cpu())]
