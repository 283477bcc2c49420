"""Flips are counted against single tokens; batch-invariant forward passes have none."""

import copy
import json

import pytest
import torch

from adasd.config import EngineConfig
from adasd.engine.forward.protocol import ForwardOver
from adasd.engine.forward.selection import choose_forward
from load_tests.throughput import flip_rate
from load_tests.throughput.flip_rate import SHAPES, TOGETHER, count_flips, passes
from tests import pairs
from tests.unit.engine.models import engine, original, prompts


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_covers_every_position_once_and_in_order(shape):
    texts = [(1, 2, 3, 4, 5), (6,), (7, 8, 9)]
    seen = {0: [], 1: [], 2: []}
    for rows in passes(texts, shape):
        for row in rows:
            assert row.start == len(seen[row.slot])
            assert row.num_logits == len(row.tokens)
            seen[row.slot] += row.tokens
    assert [tuple(seen[slot]) for slot in range(3)] == texts
    assert max(map(len, passes(texts, shape))) == (3 if shape == TOGETHER else 1)


def test_a_forward_that_depends_on_the_shape_is_found_out():
    honest = engine("llama").forward

    class Swayed(ForwardOver):
        def __call__(self, batch, cache):
            logits = honest(batch, cache)
            return logits if len(batch.ids) == 1 else logits.roll(1, -1)

    assert count_flips(Swayed(honest, "swayed"), prompts(9, 5)).per_million[TOGETHER] > 5e5
    found = count_flips(honest, prompts(9, 5))
    assert (set(found.per_million.values()), found.largest_difference) == ({0.0}, 0.0)


def test_a_whole_run_writes_all_forward_passes(tmp_path, capsys):
    target, _ = pairs.write_pair(tmp_path)
    file = tmp_path / "flips.json"
    assert (
        flip_rate.main(["--target", str(target), "--texts", "2", "--length", "40", "--json", str(file)]) == 0
    )
    found = json.loads(file.read_text())["flips"]
    assert [one["dtype"] for one in found] == ["float32"] * 3 + ["bfloat16"] * 2
    assert all(one["largest_difference"] == 0 for one in found if "token by token" in one["forward"])
    assert "per million" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["llama", "gpt-neox", "mistral-window"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deterministic_forward_passes_do_not_see_the_batch(name, dtype):
    model = copy.deepcopy(original(name)).to(dtype)
    forward = choose_forward(model, EngineConfig("tiny", compile="off", deterministic=True), 100, None)
    assert forward.batch_invariant
    assert count_flips(forward, prompts(20, 7, 13)).largest_difference == 0
