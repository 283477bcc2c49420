"""The shared noise: published vectors, equal on every code path, aligned by token id."""

import math

import numpy as np
import pytest
import torch

from adasd.specdec import noise
from adasd.specdec.noise import Stream, coupled_argmax, exponential_noise, uniform_noise
from adasd.specdec.verify_reference import coupled_choice, philox

SEEDS = torch.tensor([0, 1, -1, 0x1234_5678_9ABC_DEF0, -(2**63)])
POSITIONS = torch.tensor([0, 7, 2**32 + 3, 2**40, 12])

KNOWN = [  # Random123's published vectors: counter, key, answer
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_the_twin_gives_the_published_words(counter, key, answer):
    words = philox(key[0] | key[1] << 32, counter[0] | counter[1] << 32, counter[2], counter[3])
    assert " ".join(f"{word:08x}" for word in words) == answer


def test_every_path_gives_the_twins_words():
    for stream in Stream:
        fast = noise._philox_numpy(SEEDS.numpy(), POSITIONS.numpy(), 9, stream).astype(np.int64)
        portable = noise._philox_torch(SEEDS, POSITIONS, 9, stream).numpy()
        slow = [
            [word for c in range(9) for word in philox(seed % 2**64, position, c, stream)]
            for seed, position in zip(SEEDS.tolist(), POSITIONS.tolist(), strict=True)
        ]
        assert fast.tolist() == portable.tolist() == slow


def test_noise_is_addressed_by_token_id():
    small, large = exponential_noise(SEEDS, POSITIONS, 10), exponential_noise(SEEDS, POSITIONS, 1003)
    assert torch.equal(small, large[:, :10])


def test_noise_of_a_row_does_not_depend_on_the_batch():
    together = exponential_noise(SEEDS, POSITIONS, 33)
    for row in range(len(SEEDS)):
        assert torch.equal(together[row], exponential_noise(SEEDS[row, None], POSITIONS[row, None], 33)[0])


def test_streams_positions_and_seeds_differ():
    base = exponential_noise(SEEDS[:1], POSITIONS[:1], 64)
    assert not torch.isclose(base, exponential_noise(SEEDS[:1], POSITIONS[:1], 64, Stream.RELAX)).any()
    assert not torch.isclose(base, exponential_noise(SEEDS[:1], POSITIONS[1:2], 64)).any()
    assert not torch.isclose(base, exponential_noise(SEEDS[1:2], POSITIONS[:1], 64)).any()


def test_extreme_words_stay_positive_and_finite(monkeypatch):
    def extreme(seeds, positions, num_counters, stream):
        return np.array([[0, 2**32 - 1, 2**31, 1]], np.uint64)

    monkeypatch.setattr(noise, "_philox_numpy", extreme)
    values = exponential_noise(torch.tensor([0]), torch.tensor([0]), 4)[0].tolist()
    assert values == pytest.approx([2.0**-33, 33 * math.log(2), math.log(2), 1.5 * 2.0**-32], rel=1e-6)
    assert uniform_noise(torch.tensor([0]), torch.tensor([0]), Stream.RELAX).item() == 0.0


def test_uniform_noise_lies_below_one():
    words = torch.arange(4000)
    values = uniform_noise(words, words, Stream.RELAX)
    assert 0.0 <= values.min() < values.max() < 1.0
    expected = [(philox(s, s, 0, Stream.RELAX)[0] >> 8) * 2.0**-24 for s in range(100)]
    assert values[:100].tolist() == expected


def test_the_race_is_the_twins_and_skips_tokens_without_mass():
    generator = torch.Generator().manual_seed(0)
    probs = torch.softmax(2 * torch.randn(200, 17, generator=generator), dim=-1)
    probs[:, ::3] = 0.0
    seeds, positions = torch.arange(200) * 77_777_777_777, torch.arange(200)
    winners = coupled_argmax(probs, seeds, positions).tolist()
    assert all(winner % 3 for winner in winners)
    rows = zip(probs.tolist(), seeds.tolist(), positions.tolist(), strict=True)
    assert winners == [coupled_choice(one, seed, position) for one, seed, position in rows]


def test_a_point_mass_always_wins_the_race():
    probs = torch.zeros(100, 50)
    probs[:, 31] = 1.0
    assert coupled_argmax(probs, torch.arange(100), torch.arange(100)).tolist() == [31] * 100
