"""llama.cpp's server, from the wheel xllamacpp, which brings it built. Arguments: GGUF file, threads."""

from __future__ import annotations

import json
import sys
from urllib.request import ProxyHandler, Request, build_opener

from load_tests.peers.workers.lines import Answer, serve

running: list[object] = []
"""Keeps the server alive."""


def load() -> Answer:
    import xllamacpp

    file, threads = sys.argv[1], int(sys.argv[2])
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx, params.n_parallel, params.verbosity = 4096, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    running.append(server)
    url = f"{server.listening_address}/completion"
    opener = build_opener(ProxyHandler({}))  # localhost, so past any proxy

    def answer(prompt: list[int], max_tokens: int, mode: str) -> list[int]:
        body = {
            "prompt": prompt,
            "n_predict": max_tokens,
            "temperature": 0,
            "samplers": ["top_k"],
            "top_k": 1,
            "cache_prompt": False,
            "return_tokens": True,
        }
        asked = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with opener.open(asked) as reply:
            return json.load(reply)["tokens"]

    return answer


if __name__ == "__main__":
    serve(load)
