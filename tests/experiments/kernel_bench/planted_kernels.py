"""Cases for the compile report's tests: a product on tensor cores, and one whose rows have no alignment."""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from quicksilver.kernels.case import Case, Cost
from quicksilver.kernels.dispatch import launch
from torch import Tensor


@dataclass(frozen=True)
class ProductCase(Case):
    """a [rows, depth] times b [128, depth] transposed."""

    rows: int
    depth: int

    @property
    def needs_hgmma(self) -> bool:
        return True

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        a = torch.randn(self.rows, self.depth, dtype=dtype, device=device)
        return a, torch.randn(128, self.depth, dtype=dtype, device=device)

    def run(self, a: Tensor, b: Tensor) -> Tensor:
        c = torch.empty((self.rows, 128), dtype=torch.float32, device=a.device)
        launch(_product_kernel, (1,), a, b, c, self.depth, a.stride(0), ROWS=self.rows, DEPTH=64, num_warps=4)
        return c

    def reference(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b.T

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost(0)


@triton.jit
def _product_kernel(a, b, c, depth, stride, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    row, column, k = tl.arange(0, ROWS), tl.arange(0, 128), tl.arange(0, DEPTH)
    total = tl.zeros((ROWS, 128), tl.float32)
    for start in range(0, depth, DEPTH):
        left = tl.load(a + row[:, None] * stride + (start + k)[None, :])
        right = tl.load(b + column[None, :] * stride + (start + k)[:, None])
        total = tl.dot(left, right, total)
    tl.store(c + row[:, None] * 128 + column[None, :], total)


@dataclass(frozen=True)
class WrongCase(Case):
    """A kernel whose result is not its reference's: the error is `factor` - 1, and one integer is another."""

    factor: float
    integer: int

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
        return torch.randn(64, dtype=dtype, device=device), torch.randn(8, dtype=dtype, device=device)

    def run(self, x: Tensor, weight: Tensor) -> tuple[Any, ...]:
        from quicksilver.kernels.rms_norm import rms_norm

        return x * self.factor, rms_norm(x.reshape(8, 8), weight, 1e-5), torch.tensor([self.integer])

    def reference(self, x: Tensor, weight: Tensor) -> tuple[Any, ...]:
        from quicksilver.kernels.rms_norm import reference

        return x, reference(x.reshape(8, 8), weight, 1e-5), torch.tensor([0])

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost(4300, 0)
