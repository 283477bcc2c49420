"""The first answer of a process whose draft is never right: SmolLM2 and its own first layers, 128 tokens."""

from __future__ import annotations

import tempfile
from statistics import median

from adasd.requests import Mode, SamplingParams, SpeculationOptions
from load_tests.goals.in_process import Engines, over_off, rates
from load_tests.goals.row import Circumstances, Row, figures, smollm2
from load_tests.peers.command import PROMPTS

NUM_LAYERS, NUM_PROMPTS, MAX_TOKENS = 6, 4, 128
MODES = (Mode.OFF, Mode.EXACT, Mode.ADAPTIVE)


def measure(given: Circumstances) -> list[Row]:
    folder, _ = smollm2()
    with tempfile.TemporaryDirectory(prefix="hopeless-") as draft:
        write_first_layers(str(folder), draft, NUM_LAYERS)
        engines = Engines.load(str(folder), draft, given.threads, draft_weights="full")
    sampling = SamplingParams(MAX_TOKENS, 0.0, ignore_eos=True)
    ways = {mode.value: SpeculationOptions(mode) for mode in MODES}
    found = rates(engines, ways, PROMPTS[:NUM_PROMPTS], sampling, given.repeats, cold=True)
    about = figures("tokens/s", **{name: median(each) for name, each in found.items()})
    return [
        Row(f"hopeless draft, first answer, {name} over off", 0.95, over_off(found, name), about)
        for name in ways
        if name != Mode.OFF
    ]


def write_first_layers(target: str, folder: str, num: int) -> None:
    """The target's first layers and its head as a model, as they are."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(target)
    model.model.layers = model.model.layers[:num]
    model.config.num_hidden_layers = num
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(target).save_pretrained(folder)
