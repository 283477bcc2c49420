"""OpenVINO GenAI, over a model that optimum-intel converts once.

Arguments: model folder, folder of the converted model, threads, f32 or int8. Mode ``look-up`` drafts from the prompt.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from load_tests.peers.workers.lines import Answer, serve

LOOKED_UP = {"num_assistant_tokens": 5, "max_ngram_size": 3}


def convert(model: str, to: Path, weights: str) -> None:
    """Write the model in OpenVINO's format, in float32 or with weights of eight bits."""
    import torch
    from optimum.intel import OVModelForCausalLM

    half = to.with_name(f"{to.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    found = OVModelForCausalLM.from_pretrained(
        model,
        export=True,
        load_in_8bit=weights == "int8",
        dtype=torch.float32,
        compile=False,
        local_files_only=True,
    )
    found.save_pretrained(half)
    write_tokenizer(model, half)
    half.rename(to)


def write_tokenizer(model: str, folder: Path) -> None:
    """The pipeline refuses a folder without one, also for prompts of tokens."""
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    encoder, decoder = convert_tokenizer(AutoTokenizer.from_pretrained(model), with_detokenizer=True)
    openvino.save_model(encoder, folder / "openvino_tokenizer.xml")
    openvino.save_model(decoder, folder / "openvino_detokenizer.xml")


def load() -> Answer:
    import numpy
    import openvino
    import openvino_genai

    model, folder, threads, weights = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    if not folder.is_dir():
        convert(model, folder, weights)
    settings = {"INFERENCE_NUM_THREADS": threads}
    if weights == "f32":
        settings |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    pipelines = {
        "": openvino_genai.LLMPipeline(str(folder), "CPU", **settings),
        "look-up": openvino_genai.LLMPipeline(str(folder), "CPU", prompt_lookup=True, **settings),
    }

    def answer(prompt: list[int], max_tokens: int, mode: str) -> list[int]:
        asked = {"max_new_tokens": max_tokens, "do_sample": False, "apply_chat_template": False}
        config = openvino_genai.GenerationConfig(**asked, **(LOOKED_UP if mode == "look-up" else {}))
        ids = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
        return list(pipelines[mode].generate(ids, config).tokens[0])

    return answer


if __name__ == "__main__":
    serve(load)
