"""Checks that draft and target share a vocabulary: token ids must mean the same in both."""

from __future__ import annotations

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from adasd.engine.loading.checkpoint import load_config, load_tokenizer
from adasd.errors import ConfigError


def check_vocabularies(target: str, draft: str, trust_remote_code: bool = False) -> int:
    """The number of ids that both models know, for the draft engine's ``vocab_limit``.

    Raises ConfigError unless both tokenizers give every token the same id. Embeddings may be padded to
    different sizes; ids from the smaller size on are never drafted.
    """
    return common_vocab_size(
        load_tokenizer(target, trust_remote_code),
        load_tokenizer(draft, trust_remote_code),
        load_config(target, trust_remote_code),
        load_config(draft, trust_remote_code),
    )


def difference(target: str, draft: str, trust_remote_code: bool = False) -> str | None:
    """How the tokenizers of two models differ, in one sentence; None if every token has the same id in both."""
    target_ids, draft_ids = (
        load_tokenizer(model, trust_remote_code).get_vocab() for model in (target, draft)
    )
    return _difference(target_ids, draft_ids)


def _difference(target_ids: dict[str, int], draft_ids: dict[str, int]) -> str | None:
    if target_ids == draft_ids:
        return None
    token = sorted(t for t in target_ids | draft_ids if target_ids.get(t) != draft_ids.get(t))[0]
    return (
        f"the vocabularies differ: the target's tokenizer has {len(target_ids)} tokens, the draft's "
        f"{len(draft_ids)}; for example {token!r} is {_id(target_ids, token)} on the target and "
        f"{_id(draft_ids, token)} on the draft"
    )


def common_vocab_size(
    target_tokenizer: PreTrainedTokenizerBase,
    draft_tokenizer: PreTrainedTokenizerBase,
    target_config: PreTrainedConfig,
    draft_config: PreTrainedConfig,
) -> int:
    """Like ``check_vocabularies``, for loaded tokenizers and configurations."""
    target_ids, draft_ids = target_tokenizer.get_vocab(), draft_tokenizer.get_vocab()
    if (different := _difference(target_ids, draft_ids)) is not None:
        raise ConfigError(f"{different}; take a draft of the target's family")
    sizes = [int(config.get_text_config().vocab_size) for config in (target_config, draft_config)]
    if min(sizes) <= max(target_ids.values()):
        raise ConfigError(
            f"the tokenizers use ids up to {max(target_ids.values())}, but the target's embedding has "
            f"{sizes[0]} rows and the draft's {sizes[1]}; the checkpoint does not fit its tokenizer"
        )
    return min(sizes)


def _id(ids: dict[str, int], token: str) -> str:
    return f"id {ids[token]}" if token in ids else "missing"
