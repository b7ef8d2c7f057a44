"""RMSNorm, alone and with the residual addition before it (Zhang and Sennrich, arXiv 1910.07467).

    total = x + delta          (add_rms_norm only; rounded to the input's dtype, as the residual stream is)
    y     = total / sqrt(mean(total^2) + eps) * weight

One program a row, which stays in registers between the sum and the scaling: each byte moves once.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .case import Case, Cost
from .dispatch import kernel, launch
from .tensor_checks import assert_contiguous


def reference(x: Tensor, weight_E: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension: x [..., E] and weight [E] of one float dtype, result likewise; computed in
    float32. eps is added to the mean square."""
    return F.rms_norm(x, weight_E.shape, weight_E, eps)


def add_reference(x: Tensor, delta: Tensor, weight_E: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm of x + delta, and x + delta itself: tensors [..., E] of one shape and float dtype; that of delta may be
    narrower."""
    total = x + delta
    return reference(total, weight_E, eps), total


class _OnCPU(torch.autograd.Function):
    """The reference, forward and backward in 0.5 to 0.7 of the time that autograd takes for it.

        n = x s, s = 1 / sqrt(mean(x^2) + eps), y = n w:   dx = s (dy w - n mean(dy w n)),   dw = sum dy n
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
            ctx: Any, x: Tensor, weight_E: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normalised = x * scale
        ctx.save_for_backward(normalised, scale, weight_E)
        return normalised * weight_E

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        normalised, scale, weight_E = ctx.saved_tensors
        grad_normalised = grad_y * weight_E
        mean = (grad_normalised * normalised).mean(-1, keepdim=True)
        grad_weight_E = (grad_y * normalised).view(-1, len(weight_E)).sum(0)
        return torch.addcmul(grad_normalised, normalised, mean, value=-1).mul_(scale), grad_weight_E, None


def _on_cpu(x: Tensor, weight_E: Tensor, eps: float) -> Tensor:
    if x.dtype != torch.float32:
        return reference(x, weight_E, eps)
    if torch.is_grad_enabled() and (x.requires_grad or weight_E.requires_grad):
        return _OnCPU.apply(x, weight_E, eps)
    # 0.7 of F.rms_norm's time where rows are few: fewer operators and cheaper ones (AMD Zen 3, AVX2).
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale = torch.addcmul(_constant(eps), norm, norm, value=1 / x.shape[-1]).rsqrt_()
    return (x * scale).mul_(weight_E)


@cache
def _constant(value: float) -> Tensor:
    """A float32 number on the CPU."""
    with torch.inference_mode(False):
        return torch.tensor(value)


def _add_on_cpu(x: Tensor, delta: Tensor, weight_E: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total = x + delta
    return _on_cpu(total, weight_E, eps), total


def _check(x: Tensor, weight_E: Tensor, eps: float) -> None:
    if weight_E.shape != x.shape[-1:] or weight_E.dtype != x.dtype:
        raise ValueError(f"x {[*x.shape]} of {x.dtype}, weight_E {[*weight_E.shape]} of {weight_E.dtype}: must be "
                         "[..., E] and [E] of one dtype")


def _check_add(x: Tensor, delta: Tensor, weight_E: Tensor, eps: float) -> None:
    if delta.shape != x.shape or (delta.dtype != x.dtype and torch.promote_types(x.dtype, delta.dtype) != x.dtype):
        raise ValueError(f"x {[*x.shape]} of {x.dtype}, delta {[*delta.shape]} of {delta.dtype}: must be of one shape, "
                         "delta's dtype x's or a narrower one")
    _check(x, weight_E, eps)


@kernel(reference, check=_check, cpu=_on_cpu)
def rms_norm(x: Tensor, weight_E: Tensor, eps: float) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, None, weight_E, eps, y, None)
    return y


@kernel(add_reference, check=_check_add, cpu=_add_on_cpu)
def add_rms_norm(x: Tensor, delta: Tensor, weight_E: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, delta, weight_E, eps, y, total)
    return y, total


def _launch(x: Tensor, delta: Tensor | None, weight_E: Tensor, eps: float, y: Tensor, total: Tensor | None) -> None:
    assert_contiguous(x=x, delta=delta, weight_E=weight_E)
    width = x.shape[-1]
    block = triton.next_power_of_2(width)
    launch(_rms_norm_kernel, (math.prod(x.shape[:-1]),), x, delta, weight_E, y, total, width, eps, BLOCK=block,
           num_warps=min(16, max(1, block // 512)))


@triton.jit
def _rms_norm_kernel(x_ptr, delta_ptr, weight_ptr, y_ptr, total_ptr, width, eps, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    inside = column < width
    place = tl.program_id(0).to(tl.int64) * width + column
    value = tl.load(x_ptr + place, mask=inside, other=0).to(tl.float32)
    if delta_ptr is not None:
        added = tl.load(delta_ptr + place, mask=inside, other=0)
        # The residual stream is kept in the input's dtype: what is normalised is what is kept.
        value = (value + added.to(tl.float32)).to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + place, value, mask=inside)
        value = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value) / width + eps)
    weighted = value * scale * tl.load(weight_ptr + column, mask=inside, other=0).to(tl.float32)
    tl.store(y_ptr + place, weighted.to(y_ptr.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class AddRMSNormCase(Case):
    """The fused addition and norm of `rows` positions of `width`."""

    rows: int
    width: int
    run = staticmethod(add_rms_norm)
    reference = staticmethod(add_reference)

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, float]:
        x, delta = torch.randn(2, self.rows, self.width, dtype=dtype, device=device)
        return x, delta, torch.rand(self.width, dtype=dtype, device=device) + 0.5, 1e-5

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost((4 * self.rows + 1) * self.width * dtype.itemsize)
