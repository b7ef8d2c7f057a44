"""SwiGLU between the two products of a feed-forward layer (Shazeer, arXiv 2002.05202).

    y_m = silu(g_m) u_m,   silu(g) = g / (1 + e^-g)

g is the first half of the last dimension, u the second: one product with the stacked weights gives both, and what this
kernel saves is writing silu(g) and reading it again. A program takes a piece of one row.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .case import Cost
from .dispatch import kernel, launch

_BLOCK = 1024


def reference(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of gate_up [..., 2M] (float, gate first): [..., M] in its dtype; Triton computes in float32."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def _check(gate_up: Tensor) -> None:
    if gate_up.ndim == 0 or gate_up.shape[-1] % 2:
        raise ValueError(f"gate_up of shape {list(gate_up.shape)}: its last dimension must be two halves")


@kernel(reference, check=_check)
def swiglu(gate_up: Tensor) -> Tensor:
    width = gate_up.shape[-1] // 2
    y = torch.empty((*gate_up.shape[:-1], width), dtype=gate_up.dtype, device=gate_up.device)
    rows = gate_up.flatten(0, -2) if gate_up.ndim > 1 else gate_up[None]
    block = min(_BLOCK, triton.next_power_of_2(max(width, 1)))
    launch(_swiglu_kernel, (len(rows), triton.cdiv(width, block)), rows, y, width, rows.stride(0), rows.stride(1),
           BLOCK=block, num_warps=max(1, block // 256))
    return y


@triton.jit
def _swiglu_kernel(gate_up, y, width, stride_row, stride_column, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    first = gate_up + row * stride_row
    gate = tl.load(first + column * stride_column, mask=inside, other=0).to(tl.float32)
    up = tl.load(first + (width + column) * stride_column, mask=inside, other=0).to(tl.float32)
    # exp of what is never positive does not overflow.
    decay = tl.exp(-tl.abs(gate))
    activated = gate * tl.where(gate < 0, decay, 1.0) / (1 + decay) * up
    tl.store(y + row * width + column, activated.to(y.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class SwiGLUCase:
    """The activation of `rows` positions, from 2 `width` numbers to `width`."""

    rows: int
    width: int

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor]:
        return (torch.randn(self.rows, 2 * self.width, dtype=dtype, device=device),)

    def run(self, gate_up: Tensor) -> Tensor:
        return swiglu(gate_up)

    def reference(self, gate_up: Tensor) -> Tensor:
        return reference(gate_up)

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost(3 * self.rows * self.width * dtype.itemsize)
