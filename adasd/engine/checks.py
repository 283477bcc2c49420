"""Which calls an engine accepts; every call that passes these checks can be run."""

from __future__ import annotations

from adasd.errors import InvalidRequest
from adasd.rounds import DraftCall, SamplingTransform, VerifyCall
from adasd.specdec.blocks import check_block
from adasd.specdec.draft_step import check_draft


def check_call(
    call: DraftCall | VerifyCall,
    transform: SamplingTransform,
    max_len: int,
    num_embeddings: int,
    vocab_size: int,
    longest_block: int | None = None,
) -> None:
    """Raise InvalidRequest for a call that no pass could answer; lengths in tokens.

    ``longest_block``: most tokens of a block, where a session keeps no more pages than its window needs.
    """
    num_tokens = call.rule.max_tokens if isinstance(call, DraftCall) else len(call.block)
    if longest_block is not None and num_tokens > longest_block:
        raise InvalidRequest(
            f"a block of {num_tokens} tokens is too long for a model with a sliding window, which takes "
            f"{longest_block} at a time; shorten it"
        )
    if isinstance(call, DraftCall):
        if call.rule.max_tokens and not call.feed:
            raise InvalidRequest("a draft call that drafts must feed at least one token")
        try:
            check_draft(transform, call.rule)
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        num_cached = call.keep_len + len(call.feed) + max(call.rule.max_tokens - 1, 0)
        fed: tuple[int, ...] = call.feed
    else:
        if not call.feed:
            raise InvalidRequest("a verify call must feed at least one token")
        check_block(transform, call.block, call.distributions, call.rule, vocab_size)
        num_cached = call.keep_len + len(call.feed) + len(call.block)
        fed = call.feed
    if num_cached > max_len:
        raise InvalidRequest(f"the call needs {num_cached} cached tokens, its slot was opened for {max_len}")
    if fed and not 0 <= min(fed) <= max(fed) < num_embeddings:
        raise InvalidRequest(
            f"token ids must lie in [0, {num_embeddings}); the call feeds {min(fed)} to {max(fed)}"
        )
