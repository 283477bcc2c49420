"""The first answer of a new process with a hopeless draft, on a simulated clock: it costs at most 5 %."""

from __future__ import annotations

import pytest

from adasd.config import SpeculationConfig
from adasd.local import LocalPair
from adasd.testing.clock import FakeClock
from adasd.testing.fake_engine import FakeEngine
from adasd.testing.table_model import TableModel

TARGET = TableModel.random(seed=3, sharpness=0.5)
OPPOSITE = TableModel(-TARGET.tables)
"""Its likeliest token is the target's least likely one."""
PASS_MS, TOKEN_MS = 1.0, 0.04
"""A target pass, and what each token adds to it, as SmolLM2-135M on two cores."""


def engine(model: TableModel, clock: FakeClock, factor: float) -> FakeEngine:
    """An engine whose passes take ``factor`` times as long as the target's."""

    def advance() -> None:
        inputs = [work.next_input(1024) for work in made._waiting.values()]
        num_tokens = sum(len(one.tokens) for one in inputs if one is not None)
        clock.advance(1e-3 * factor * (PASS_MS + TOKEN_MS * (num_tokens - 1)))

    made = FakeEngine(model, max_context=1024, clock=clock, on_step=advance)
    return made


def seconds(mode: str, factor: float, draft: TableModel = OPPOSITE, prompt_len: int = 40) -> float:
    """Simulated time of the first answer of 128 tokens."""
    clock = FakeClock()
    target, drafter = engine(TARGET, clock, 1.0), engine(draft, clock, factor)
    pair = LocalPair(target, drafter, lambda _: "", frozenset(), SpeculationConfig(), clock=clock)
    prompt = [1 + i % 15 for i in range(prompt_len)]
    assert len(pair.generate(prompt, mode=mode, max_tokens=128).tokens) == 128
    return clock.now_s


@pytest.mark.parametrize(
    ("mode", "factor"),
    [
        *(("exact", factor) for factor in (0.05, 0.1, 0.2, 0.5)),
        *(("adaptive", factor) for factor in (0.05, 0.1, 0.2)),
    ],
)
def test_a_hopeless_draft_costs_the_first_answer_at_most_five_percent(mode, factor):
    assert seconds("off", factor) / seconds(mode, factor) >= 0.95


@pytest.mark.parametrize("mode", ["exact", "adaptive"])
def test_a_good_draft_pays_in_the_first_answer(mode):
    assert seconds("off", 0.1) / seconds(mode, 0.1, TARGET) > 2.0
