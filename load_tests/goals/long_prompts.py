"""Prompts of 1,500 tokens beside llama.cpp and vLLM in float32: SmolLM2, one at a time."""

from __future__ import annotations

from load_tests.goals.one_stream import F32, asked, chat, over
from load_tests.goals.row import Circumstances, Row, smollm2

NUM_READ = 1500


def measure(given: Circumstances) -> list[Row]:
    folder, draft = smollm2()
    peers = ("llama.cpp F32", "vLLM float32")
    found = asked((F32, *peers), folder, draft, chat(folder, 1, 8, given.repeats, NUM_READ), given)
    return [
        over(f"prompt of {NUM_READ:,} tokens over {peer}", 1.0, F32, peer, found, "read_per_s")
        for peer in peers
    ]
