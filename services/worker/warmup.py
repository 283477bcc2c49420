"""Runs one call of each kind at start-up, so that no request pays for lazy initialisation."""

from __future__ import annotations

from adasd.rounds import DraftCall, OpenCall, SamplingTransform, StopRule, VerifyCall
from services.worker.host import EngineHost

SESSION = "warm-up"
PROMPT_LEN = 8
BLOCK_LEN = 4


async def warm_up(host: EngineHost, verifies: bool) -> None:
    """Prefill, draft one block, and verify it if the replica gives verdicts; close the slot.

    Raises the error of a failed call. A draft is asked for no verdict: one with another vocabulary has none to give.
    """
    prompt_len = min(PROMPT_LEN, host.facts.max_context - 2 * BLOCK_LEN)
    prompt = tuple(token % host.facts.vocab_size for token in range(prompt_len))
    await host.open(OpenCall(SESSION, SamplingTransform(temperature=0.0), max_len=prompt_len + 2 * BLOCK_LEN))
    try:
        drafted = await host.submit(DraftCall(SESSION, 1, 0, prompt, StopRule(max_tokens=BLOCK_LEN)))
        if verifies:
            await host.submit(VerifyCall(SESSION, 2, 0, prompt, drafted.tokens))
    finally:
        await host.close(SESSION)
