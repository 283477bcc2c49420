"""AdaSD itself, in a process like its peers'. Arguments: target, draft, threads, full or int8 weights."""

from __future__ import annotations

import sys

from load_tests.peers.workers.lines import Answer, serve


def load() -> Answer:
    from adasd.config import EngineConfig
    from adasd.engine.engine import TorchEngine
    from adasd.local import LocalPair
    from adasd.text.tokenizer import Tokenizer

    target, draft, threads, weights = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    shared = {"device": "cpu", "num_threads": threads, "num_slots": 2, "prefix_cache": False}
    engine = TorchEngine.from_config(EngineConfig(target, weights=weights, **shared))
    drafter = TorchEngine.from_config(EngineConfig(draft, **shared), vocab_limit=engine.vocab_size)
    for each in (engine, drafter):
        each.warm_up()
    tokenizer = Tokenizer.load(target)
    pair = LocalPair(engine, drafter, tokenizer.decode, tokenizer.eos_ids, tokenizer=tokenizer)

    def answer(prompt: list[int], max_tokens: int, mode: str) -> tuple[int, ...]:
        return pair.generate(prompt, mode=mode, max_tokens=max_tokens).token_ids

    return answer


if __name__ == "__main__":
    serve(load)
