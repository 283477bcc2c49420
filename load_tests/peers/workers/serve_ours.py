"""AdaSD itself, in a process like its peers'.

Arguments: target, draft or nothing, threads, and the target's weights: full (float32), bfloat16 or int8.
"""

from __future__ import annotations

import sys

from load_tests.peers.workers.lines import Answer, serve

WEIGHTS = {"full": {"dtype": "float32"}, "bfloat16": {"dtype": "bfloat16"}, "int8": {"weights": "int8"}}
"""Settings of the target's engine."""


def load() -> Answer:
    from adasd.config import EngineConfig
    from adasd.engine.engine import TorchEngine
    from adasd.local import LocalPair
    from adasd.text.tokenizer import Tokenizer

    target, draft, threads, weights = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    shared = {"device": "cpu", "num_threads": threads, "num_slots": 2, "prefix_cache": False}
    engine, drafter = TorchEngine.from_config(EngineConfig(target, **WEIGHTS[weights], **shared)), None
    engine.warm_up()
    if draft:
        drafter = TorchEngine.from_config(EngineConfig(draft, **shared), vocab_limit=engine.vocab_size)
        drafter.warm_up()
    tokenizer = Tokenizer.load(target)
    pair = LocalPair(engine, drafter, tokenizer.decode, tokenizer.eos_ids, tokenizer=tokenizer)

    def answer(prompt: list[int], max_tokens: int, mode: str) -> tuple[int, ...]:
        return pair.generate(prompt, mode=mode, max_tokens=max_tokens).token_ids

    return answer


if __name__ == "__main__":
    serve(load)
