"""Greedy continuation of many prompts in left-padded batches."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 50


def chat_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The token ids of one user message, including the start of the assistant's turn."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@torch.inference_mode()
def continue_greedily(
    model: PreTrainedModel, contexts: Sequence[Sequence[int]], max_new_tokens: int
) -> list[list[int]]:
    """Up to `max_new_tokens` new ids for each context, up to and including an end-of-sequence token."""
    eos, pad = model.generation_config.eos_token_id, model.generation_config.pad_token_id
    order = sorted(range(len(contexts)), key=lambda index: len(contexts[index]))
    found: list[list[int]] = [[] for _ in contexts]
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        longest = max(len(contexts[row]) for row in rows)
        ids_BT = torch.tensor([[pad] * (longest - len(contexts[row])) + list(contexts[row]) for row in rows])
        mask_BT = torch.tensor(
            [[0] * (longest - len(contexts[row])) + [1] * len(contexts[row]) for row in rows]
        )
        new_BT = model.generate(  # type: ignore[operator]
            input_ids=ids_BT.to(model.device),
            attention_mask=mask_BT.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )[:, longest:]
        for row, new in zip(rows, new_BT.tolist(), strict=True):
            found[row] = new[: new.index(eos) + 1] if eos in new else new
    return found
