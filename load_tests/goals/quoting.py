"""Answers that quote their prompt: SmolLM2, sources chosen by the controller (``auto``), one stream."""

from __future__ import annotations

from statistics import median

from adasd.control.draft_sources import AUTO
from adasd.requests import Mode, SamplingParams, SpeculationOptions
from load_tests.goals.in_process import Engines, over_off, rates
from load_tests.goals.row import Circumstances, Row, figures, smollm2

TEXTS = (
    "The ferry leaves the old harbor at seven and again at noon. In winter it does not run on Sundays, and when the "
    "wind is strong it waits until the harbor master gives his word.",
    "Our library opens at nine. Children may borrow five books, grown-ups ten. Whoever brings a book back late pays "
    "ten cents a day, but never more than five euros in all.",
    "Mix the flour with the salt, make a hollow, and pour in the warm milk. Let it rest for an hour under a cloth, "
    "then knead it again and bake it for forty minutes.",
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n"
    "    return total / len(values)",
    "The meeting began at ten. Present were Ana, Tom and Mia. It was decided to paint the hall in spring, and to ask "
    "three painters for an offer before the end of the month.",
    "Name: Ana Silva. Street: Long Road 12. City: Porto. Phone: 555 0199. Customer since: 2019. Orders: 42.",
)
MAX_TOKENS = 96


def measure(given: Circumstances) -> list[Row]:
    folder, draft = smollm2()
    engines = Engines.load(str(folder), str(draft), given.threads)
    ways = {"off": SpeculationOptions(Mode.OFF), "auto": SpeculationOptions(Mode.EXACT, draft=AUTO)}
    prompts = [
        f"Repeat the following text word for word, and write nothing else.\n\n{text}" for text in TEXTS
    ]
    found = rates(engines, ways, prompts, SamplingParams(MAX_TOKENS, 0.0), given.repeats, cold=False)
    about = figures("tokens/s", **{name: median(each) for name, each in found.items()})
    return [Row("exact over off, quoting prompts", 2.2, over_off(found, "auto"), about)]
