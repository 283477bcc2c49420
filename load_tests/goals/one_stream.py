"""One stream beside other engines on the same weights: SmolLM2, chat, 2 threads (load_tests.peers)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from adasd.text.tokenizer import Tokenizer
from load_tests.goals.row import Circumstances, Row, smollm2
from load_tests.peers import race
from load_tests.peers.command import PROMPTS
from load_tests.peers.contenders import CONTENDERS
from load_tests.peers.race import PeerResult, Task

F32, EXACT, BF16, INT8, INT8_EXACT = (
    f"adasd {how}" for how in ("float32, off", "float32, exact", "bfloat16, off", "int8, off", "int8, exact")
)
SPECULATIVE = ("OpenVINO float32, prompt look-up", "vLLM float32, prompt look-up")
NUM_PROMPTS, MAX_TOKENS = 4, 48


def measure(given: Circumstances) -> list[Row]:
    folder, draft = smollm2()
    peers = ("llama.cpp F32", "llama.cpp Q8_0", "OpenVINO float32", *SPECULATIVE)
    task = chat(folder, NUM_PROMPTS, MAX_TOKENS, given.repeats)
    found = asked((F32, EXACT, INT8, INT8_EXACT, *peers), folder, draft, task, given)
    speeds = {name: one.tokens_per_s for name, one in found.items() if one.tokens_per_s}
    fastest = max(
        (name for name in SPECULATIVE if name in speeds), key=speeds.__getitem__, default=SPECULATIVE[0]
    )
    return [
        over("float32 plain over llama.cpp F32", 1.15, F32, "llama.cpp F32", found),
        over("float32 plain over OpenVINO float32", 1.0, F32, "OpenVINO float32", found),
        over("int8 plain over llama.cpp Q8_0", 1.0, INT8, "llama.cpp Q8_0", found),
        over("int8 exact over llama.cpp Q8_0", 1.5, INT8_EXACT, "llama.cpp Q8_0", found),
        over("exact over off, chat", 1.5, EXACT, F32, found),
        over("exact over the fastest speculative mode of a peer", 1.5, EXACT, fastest, found),
    ]


def chat(folder: Path, num_prompts: int, max_tokens: int, repeats: int, num_read: int = 512) -> Task:
    """The peers' chat prompts in the model's own words."""
    tokenizer = Tokenizer.load(str(folder))
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}]) for text in PROMPTS[:num_prompts]
    ]
    return Task(prompts, max_tokens, repeats, num_read, tokenizer.eos_ids)


def asked(
    names: Sequence[str], folder: Path, draft: Path | None, task: Task, given: Circumstances
) -> Mapping[str, PeerResult]:
    """The figures of these contenders by name."""
    chosen = sorted((one for one in CONTENDERS if one.name in names), key=lambda one: names.index(one.name))
    with race.running(chosen, folder, draft, given.threads, given.say) as (running, missing):
        return {one.name: one for one in race.measure(chosen, running, missing, task)}


def over(
    what: str, goal: float, name: str, other: str, found: Mapping[str, PeerResult], of: str = "tokens_per_s"
) -> Row:
    """One contender's speed over another's; ``of`` is a figure of PeerResult."""
    for each in (name, other):
        if found[each].missing is not None:
            return Row(what, goal, None, f"{each}: {found[each].missing}")
    ours, theirs = getattr(found[name], of), getattr(found[other], of)
    return Row(what, goal, round(ours / theirs, 3), f"{name} {ours:.4g}, {other} {theirs:.4g} tokens/s")
