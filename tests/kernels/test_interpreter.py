"""bfloat16 in Triton's interpreter, mended: products, and rounding to the nearest."""

import pytest
import torch
import triton
import triton.language as tl
from quicksilver.kernels.dispatch import INTERPRETED, launch

from .comparison import on_device

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="this is about the interpreter")


@triton.jit
def _product_kernel(a, b, c, SIZE: tl.constexpr):
    row, column = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    product = tl.dot(tl.load(a + row * SIZE + column), tl.load(b + row * SIZE + column))
    tl.store(c + row * SIZE + column, product)


@triton.jit
def _round_kernel(x, y, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.store(y + place, tl.load(x + place).to(tl.bfloat16))


def test_a_bfloat16_product_is_that_of_its_values() -> None:
    a, b = torch.randn(2, 32, 32).bfloat16()
    c = on_device(torch.empty(32, 32))
    launch(_product_kernel, (1,), on_device(a), on_device(b), c, SIZE=32)
    torch.testing.assert_close(c.cpu(), a.float() @ b.float(), rtol=1e-6, atol=1e-5)


def test_float32_rounds_to_the_nearest_bfloat16_and_ties_to_even() -> None:
    ties = torch.arange(0x3F800000, 0x3F800000 + 64 * 0x8000, 0x8000, dtype=torch.int32).view(torch.float32)
    x = torch.cat((ties, torch.randn(60), torch.tensor([0.0, -torch.inf, torch.inf, torch.nan])))
    y = on_device(torch.empty(128, dtype=torch.bfloat16))
    launch(_round_kernel, (1,), on_device(x), y, SIZE=128)
    torch.testing.assert_close(y.cpu(), x.bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_a_launch_leaves_the_language_as_it_was() -> None:
    before = {name: member for name, member in vars(tl).items() if name not in ("core", "standard")}
    a, b = torch.randn(2, 16, 16)
    launch(_product_kernel, (1,), on_device(a), on_device(b), on_device(torch.empty(16, 16)), SIZE=16)
    assert all(vars(tl)[name] is member for name, member in before.items())
