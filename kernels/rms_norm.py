"""RMSNorm, alone and with the residual addition before it (Zhang and Sennrich, arXiv 1910.07467).

    total = x + delta          (add_rms_norm only; rounded to the input's dtype, as the residual stream is)
    y     = total / sqrt(mean(total^2) + eps) * weight

One program a row, which stays in registers between the sum and the scaling: each byte moves once.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .case import Cost
from .dispatch import kernel, launch


def reference(x: Tensor, weight_E: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension: x [..., E] and weight [E] of one float dtype, result likewise; computed in
    float32. eps is added to the mean square."""
    return F.rms_norm(x, weight_E.shape, weight_E, eps)


def add_reference(x: Tensor, delta: Tensor, weight_E: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm of x + delta, and x + delta itself: tensors [..., E] of one shape and float dtype; that of delta may be
    narrower."""
    total = x + delta
    return reference(total, weight_E, eps), total


def _check(x: Tensor, weight_E: Tensor, eps: float) -> None:
    if weight_E.shape != x.shape[-1:] or weight_E.dtype != x.dtype:
        raise ValueError(f"x {[*x.shape]} of {x.dtype}, weight_E {[*weight_E.shape]} of {weight_E.dtype}: must be "
                         "[..., E] and [E] of one dtype")


def _check_add(x: Tensor, delta: Tensor, weight_E: Tensor, eps: float) -> None:
    if delta.shape != x.shape or (delta.dtype != x.dtype and torch.promote_types(x.dtype, delta.dtype) != x.dtype):
        raise ValueError(f"x {[*x.shape]} of {x.dtype}, delta {[*delta.shape]} of {delta.dtype}: must be of one shape, "
                         "delta's dtype x's or a narrower one")
    _check(x, weight_E, eps)


@kernel(reference, check=_check)
def rms_norm(x: Tensor, weight_E: Tensor, eps: float) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, None, weight_E, eps, y, None)
    return y


@kernel(add_reference, check=_check_add)
def add_rms_norm(x: Tensor, delta: Tensor, weight_E: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, delta, weight_E, eps, y, total)
    return y, total


def _launch(x: Tensor, delta: Tensor | None, weight_E: Tensor, eps: float, y: Tensor, total: Tensor | None) -> None:
    width = x.shape[-1]
    rows = x.reshape(-1, width)
    delta_rows = None if delta is None else delta.reshape(-1, width)
    block = triton.next_power_of_2(width)
    launch(_rms_norm_kernel, (len(rows),), rows, delta_rows, weight_E, y, total, width, rows.stride(0), rows.stride(1),
           0 if delta_rows is None else delta_rows.stride(0), 0 if delta_rows is None else delta_rows.stride(1),
           weight_E.stride(0), eps, BLOCK=block, num_warps=min(16, max(1, block // 512)))


@triton.jit
def _rms_norm_kernel(x, delta, weight, y, total, width, stride_row, stride_column, stride_delta_row,
                     stride_delta_column, stride_weight, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row * stride_row + column * stride_column, mask=inside, other=0).to(tl.float32)
    if delta is not None:
        added = tl.load(delta + row * stride_delta_row + column * stride_delta_column, mask=inside, other=0)
        # The residual stream is kept in the input's dtype: what is normalised is what is kept.
        value = (value + added.to(tl.float32)).to(total.dtype.element_ty)
        tl.store(total + row * width + column, value, mask=inside)
        value = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value) / width + eps)
    weighted = value * scale * tl.load(weight + column * stride_weight, mask=inside, other=0).to(tl.float32)
    tl.store(y + row * width + column, weighted.to(y.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class AddRMSNormCase:
    """The fused addition and norm of `rows` positions of `width`."""

    rows: int
    width: int

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, float]:
        x, delta = torch.randn(2, self.rows, self.width, dtype=dtype, device=device)
        return x, delta, torch.rand(self.width, dtype=dtype, device=device) + 0.5, 1e-5

    def run(self, x: Tensor, delta: Tensor, weight_E: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return add_rms_norm(x, delta, weight_E, eps)

    def reference(self, x: Tensor, delta: Tensor, weight_E: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return add_reference(x, delta, weight_E, eps)

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost((4 * self.rows + 1) * self.width * dtype.itemsize)
