"""SwiGLU between the two products of a feed-forward layer (Shazeer, arXiv 2002.05202).

    y_m = silu(g_m) u_m,   silu(g) = g / (1 + e^-g)

g is the first half of the last dimension, u the second: one product with the stacked weights gives both, and what this
kernel saves is writing silu(g) and reading it again. A program takes a piece of one row.
"""

import math
from dataclasses import dataclass
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

_BLOCK = 1024


def reference(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of gate_up [..., 2M] (float, gate first): [..., M] in its dtype; Triton computes in float32."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


class _OnCPU(torch.autograd.Function):
    """The reference with a backward that writes both halves' gradients into one tensor. Autograd's own computes them
    apart and joins them, in twice the time; to the bit the same."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = gate_up.chunk(2, dim=-1)
        activated = F.silu(gate)
        ctx.save_for_backward(gate_up, activated)
        return activated * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate_up, activated = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad = torch.empty_like(gate_up)
        grad_gate, grad_up = grad.chunk(2, dim=-1)
        torch.ops.aten.silu_backward.grad_input(grad_y * up, gate, grad_input=grad_gate)
        torch.mul(grad_y, activated, out=grad_up)
        return grad


def _on_cpu(gate_up: Tensor) -> Tensor:
    if torch.is_grad_enabled() and gate_up.requires_grad:
        return _OnCPU.apply(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def _check(gate_up: Tensor) -> None:
    if gate_up.ndim == 0 or gate_up.shape[-1] % 2:
        raise ValueError(f"gate_up of shape {list(gate_up.shape)}: its last dimension must be two halves")


@kernel(reference, check=_check, cpu=_on_cpu)
def swiglu(gate_up: Tensor) -> Tensor:
    assert_contiguous(gate_up=gate_up)
    width = gate_up.shape[-1] // 2
    y = torch.empty((*gate_up.shape[:-1], width), dtype=gate_up.dtype, device=gate_up.device)
    block = min(_BLOCK, triton.next_power_of_2(max(width, 1)))
    launch(_swiglu_kernel, (math.prod(gate_up.shape[:-1]), triton.cdiv(width, block)), gate_up, y, width, BLOCK=block,
           num_warps=max(1, block // 256))
    return y


@triton.jit
def _swiglu_kernel(gate_up_ptr, y_ptr, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate_up_ptr += row * 2 * width
    gate = tl.load(gate_up_ptr + column, mask=inside, other=0).to(tl.float32)
    up = tl.load(gate_up_ptr + width + column, mask=inside, other=0).to(tl.float32)
    # exp of what is never positive does not overflow.
    decay = tl.exp(-tl.abs(gate))
    activated = gate * tl.where(gate < 0, decay, 1.0) / (1 + decay) * up
    tl.store(y_ptr + row * width + column, activated.to(y_ptr.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class SwiGLUCase(Case):
    """The activation of `rows` positions, from 2 `width` numbers to `width`."""

    rows: int
    width: int
    run = staticmethod(swiglu)
    reference = staticmethod(reference)

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor]:
        return (torch.randn(self.rows, 2 * self.width, dtype=dtype, device=device),)

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost(3 * self.rows * self.width * dtype.itemsize)
