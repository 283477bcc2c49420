"""What the target says to prompts, with its most probable tokens at every place: the material to learn from.

Shapes: B rows, K most probable tokens, A tokens of one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from adasd.distill.prompts import Prompt

TOP_K = 32
DROP_SHARE = 8  # finished rows leave the batch once they are one in so many


@dataclass(frozen=True, slots=True)
class Answer:
    """One conversation; ``top_logprobs_AK`` are natural logarithms, before any temperature, in falling order."""

    ids: list[int]  # prompt and answer
    prompt_len: int
    top_ids_AK: Tensor  # int32
    top_logprobs_AK: Tensor  # float16


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """The prompt as the model reads it; a model without a chat template gets the bare text."""
    if tokenizer.chat_template is None:
        return list(tokenizer(prompt.text + "\n")["input_ids"])
    messages = prompt.messages()
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except Exception:  # a template may refuse system messages, with whatever it likes
        text = tokenizer.apply_chat_template(messages[-1:], add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def eos_ids(model: PreTrainedModel) -> frozenset[int]:
    """Ids that end an answer."""
    ids: Any = model.generation_config.eos_token_id
    return frozenset() if ids is None else frozenset([ids] if isinstance(ids, int) else ids)


@torch.inference_mode()
def answer(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    temperatures: Sequence[float],
    max_tokens: int,
    generator: torch.Generator,
    top_k: int = TOP_K,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Answer] | None:
    """Answer all prompts in one batch, greedily where the temperature is 0; None if ``stopped()`` came first.

    Other temperatures draw from the ``top_k`` most probable tokens.
    """
    ends, device = eos_ids(model), model.device
    longest = max(map(len, prompts))
    mask_BT = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    ids_BT = torch.tensor([[0] * (longest - len(ids)) + list(ids) for ids in prompts], device=device)
    heat_B = torch.tensor(temperatures, device=device)
    rows = list(range(len(prompts)))  # which prompt each row of the batch answers
    said: list[list[int]] = [[] for _ in prompts]
    tops: list[list[tuple[Tensor, Tensor]]] = [[] for _ in prompts]
    open_rows = set(rows)
    cache: Any = DynamicCache(config=model.config)
    for _ in range(max_tokens):
        if stopped():
            return None
        positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -ids_BT.size(1) :]
        logits_BV = (
            model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=positions_BT,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            .logits[:, -1]
            .float()
        )
        logprobs_BK, top_BK = logits_BV.topk(top_k)
        logprobs_BK = logprobs_BK - logits_BV.logsumexp(-1, keepdim=True)
        ids_BT = top_BK.gather(1, _drawn(logprobs_BK, heat_B, generator))
        kept_ids_BK, kept_BK = top_BK.to("cpu", torch.int32), logprobs_BK.to("cpu", torch.float16)
        for at, (row, new) in enumerate(zip(rows, ids_BT[:, 0].tolist(), strict=True)):
            if row in open_rows:
                said[row].append(new)
                tops[row].append((kept_ids_BK[at], kept_BK[at]))
                if new in ends:
                    open_rows.remove(row)
        if not open_rows:
            break
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(mask_BT), 1)], dim=1)
        if (len(rows) - len(open_rows)) * DROP_SHARE >= len(rows):
            left = torch.tensor([at for at, row in enumerate(rows) if row in open_rows], device=device)
            cache.batch_select_indices(left)
            ids_BT, mask_BT, heat_B = ids_BT[left], mask_BT[left], heat_B[left]
            rows = [row for row in rows if row in open_rows]
    return [
        Answer(
            [*prompts[row], *said[row]],
            len(prompts[row]),
            torch.stack([ids for ids, _ in tops[row]]),
            torch.stack([values for _, values in tops[row]]),
        )
        for row in range(len(prompts))
    ]


def _drawn(logprobs_BK: Tensor, heat_B: Tensor, generator: torch.Generator) -> Tensor:
    """Column of the token that is said, (B, 1)."""
    greedy_B = heat_B == 0
    heated_BK = (logprobs_BK / heat_B.clamp(min=1e-3)[:, None]).softmax(-1)
    drawn_B1 = torch.multinomial(heated_BK, 1, generator=generator)
    return drawn_B1.masked_fill(greedy_B[:, None], 0)
