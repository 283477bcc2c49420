"""The table of the latency benchmark, and that its ways of decoding differ only as stated."""

from __future__ import annotations

from adasd.control.controller import Controller
from adasd.requests import Mode, SpeculationOptions
from load_tests.latency.link_latency import WAYS, LinkAnswer, LinkRate, rate, table


class Speaker:
    """Answers without models: one token first, then two per second."""

    latency_ms = 5.0

    async def answer(self, pool, prompt, max_tokens):
        tokens = tuple(range(len(prompt), len(prompt) + max_tokens))
        return LinkAnswer(tokens, (max_tokens - 1) / 2, 1, 8, 6, 4, 1)


async def test_a_rate_counts_what_comes_behind_the_first_chunk_and_answers_that_differ():
    prompts = [(1,), (1, 2)]
    found, answers = await rate(Speaker(), "pipelined", prompts, 5, alone=[(1, 2, 3, 4, 5), (9,)])
    assert found == LinkRate(5.0, "pipelined", 2.0, 0.75, 0.25, 1)
    assert [one.tokens[0] for one in answers] == [1, 2]


def test_every_latency_has_a_row_beside_the_one_plain_run():
    rates = [LinkRate(0.0, "off", 100.0, 0.0, 0.0, 0)]
    rates += [
        LinkRate(ms, way, 250.0, 0.8, 0.4, 0)
        for ms in (0.0, 20.0)
        for way in ("sequential", "pipelined", "gated")
    ]
    shown = table(rates, "title")
    assert shown.row_count == 2
    assert [list(column.cells) for column in shown.columns][1:3] == [["100 (1.00x)"] * 2, ["250 (2.50x)"] * 2]


def test_ways_are_what_they_are_called():
    controllers = {way: Controller(config) for way, config in WAYS.items()}
    assert set(WAYS) == {"off", "sequential", "pipelined", "gated"}
    modes = {way: c.effective(SpeculationOptions()).mode for way, c in controllers.items()}
    assert modes == dict.fromkeys(WAYS, Mode.EXACT) | {"off": Mode.OFF}
    assert [way for way, config in WAYS.items() if config.draft_ahead and config.mode is Mode.EXACT] == [
        "pipelined",
        "gated",
    ]
    assert [way for way, config in WAYS.items() if config.bypass] == ["gated"]
