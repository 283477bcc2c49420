"""vLLM's engine for CPUs, in this process, without tcmalloc preloaded.

Arguments: model folder, threads, plain or look-up.
"""

from __future__ import annotations

import os
import sys

from load_tests.peers.workers.lines import Answer, serve

LOOKED_UP = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 3, "prompt_lookup_min": 1}


def load() -> Answer:
    folder, threads, way = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
    from vllm import LLM, SamplingParams

    model = LLM(
        folder,
        dtype="float32",
        max_model_len=2048,
        max_num_seqs=2,
        enable_prefix_caching=False,
        enforce_eager=True,  # otherwise it compiles for minutes
        speculative_config=LOOKED_UP if way == "look-up" else None,
    )

    def answer(prompt: list[int], max_tokens: int, mode: str) -> list[int]:
        sampling = SamplingParams(temperature=0, max_tokens=max_tokens)
        (found,) = model.generate([{"prompt_token_ids": prompt}], sampling, use_tqdm=False)
        return list(found.outputs[0].token_ids)

    return answer


if __name__ == "__main__":
    serve(load)
