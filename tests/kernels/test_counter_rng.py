"""The counter-based generator: known answers, independence of the batch, and the right distribution."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from quicksilver.kernels.counter_rng import gumbel, gumbel_of, key_words_of, load_key, philox4x32, uniform, word_tile
from quicksilver.kernels.dispatch import launch

from .comparison import DEVICE

STEP = torch.tensor(2)


@pytest.mark.parametrize(("counter", "key", "expected"), [
    # Random123's known-answer file, philox4x32 with ten rounds.
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
])
def test_philox_gives_the_published_answers(counter: tuple, key: tuple, expected: tuple) -> None:
    words = philox4x32(tuple(torch.tensor(word) for word in counter), (torch.tensor(key[0]), torch.tensor(key[1])))
    assert tuple(int(word) for word in words) == expected


def test_a_draw_depends_only_on_seed_position_step_and_token() -> None:
    seed_B, position_BQ = torch.tensor([3, 5 << 32, 7]), torch.tensor([[0, 4, 9], [1, 4, 2], [9, 0, 4]])
    together = gumbel(seed_B, position_BQ, STEP.expand(3), 13)
    for row in range(3):
        alone = gumbel(seed_B[row : row + 1], position_BQ[row : row + 1, 1:2], STEP.expand(1), 13)
        torch.testing.assert_close(together[row, 1], alone[0, 0], rtol=0, atol=0)
    wider = gumbel(seed_B, position_BQ, STEP.expand(3), 16)
    torch.testing.assert_close(together, wider[..., :13], rtol=0, atol=0)


@pytest.mark.parametrize("change", ["seed", "high seed", "position", "step"])
def test_every_part_of_the_key_changes_the_draw(change: str) -> None:
    base = gumbel(torch.tensor([3]), torch.tensor([[4]]), STEP.expand(1), 8)
    other = gumbel(torch.tensor([{"seed": 4, "high seed": 3 + (1 << 32)}.get(change, 3)]),
                   torch.tensor([[5 if change == "position" else 4]]), STEP.expand(1) + (change == "step"), 8)
    assert (base != other).all()


def test_gumbel_argmax_samples_the_softmax() -> None:
    probability = torch.tensor([0.5, 0.25, 0.15, 0.0999, 0.0001])
    num = 200_000
    noise = gumbel(torch.arange(num), torch.full((num, 1), 7), STEP.expand(num), 5)
    drawn = np.bincount((probability.log() + noise[:, 0]).argmax(-1).numpy(), minlength=5)
    chi_square = ((drawn - num * probability.numpy()) ** 2 / (num * probability.numpy())).sum()
    assert chi_square < 18.47  # 4 degrees of freedom, p = 0.001


def test_uniform_covers_the_unit_interval_evenly() -> None:
    drawn = uniform(torch.arange(1000), torch.arange(100).expand(1000, 100), STEP.expand(1000)).flatten()
    counts = torch.histc(drawn, bins=20, min=0, max=1).numpy()
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # 19 degrees of freedom, p = 0.001


@triton.jit
def _noise_kernel(key, position, out, GROUPS: tl.constexpr, ROWS: tl.constexpr):
    row = tl.arange(0, ROWS)
    word = word_tile(load_key(key, row, None), tl.load(position + row).to(tl.int32), row * 0 + 5, tl.arange(0, GROUPS))
    tl.store(out + row[None, :] * (4 * GROUPS) + tl.arange(0, 4 * GROUPS)[:, None], gumbel_of(word))


def test_triton_draws_the_same_noise() -> None:
    seed, position = torch.tensor([3, 2**62 + 9, 0, 77]), torch.tensor([[0], [100_000], [3], [2**31 - 1]])
    out = torch.empty(4, 4096)
    on = [tensor.to(DEVICE) for tensor in (key_words_of(seed), position, out)]
    launch(_noise_kernel, (1,), *on, GROUPS=1024, ROWS=4)
    expected = gumbel(seed, position, torch.full((4,), 5), 4096)[:, 0]
    torch.testing.assert_close(on[2].cpu(), expected, rtol=3e-6, atol=3e-6)
