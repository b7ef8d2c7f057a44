"""The product with a router's weights, in float32 whatever the positions' dtype: rounding must not choose experts.

    z_t = R x_t

For few rows one launch casts and multiplies, a program 16 experts: 4 to 16 programs for 64 to 256 experts, which wait
for memory more than they use it. There is no exact tensor-core product of float32: it is made of multiply-adds.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .case import Case, Cost
from .checks import integer_field
from .dispatch import kernel, launch, num_pipeline_stages
from .tensor_checks import assert_contiguous, check_rank, check_shape

_MOST_ROWS = 64
_ROWS, _EXPERTS, _DEPTH = 16, 16, 64


def reference(x_TE: Tensor, router_XE: Tensor) -> Tensor:
    """Logits [T, X] of x_TE [T, E] and router_XE [X, E], float32 (float64 for float64). Differentiable in PyTorch."""
    precise = torch.promote_types(x_TE.dtype, torch.float32)
    return F.linear(x_TE.to(precise), router_XE.to(precise))


def _check(x_TE: Tensor, router_XE: Tensor) -> None:
    check_rank("x_TE", x_TE, 2)
    check_shape("router_XE", router_XE, len(router_XE), x_TE.shape[1])


@kernel(reference, check=_check)
def router_logits(x_TE: Tensor, router_XE: Tensor) -> Tensor:
    (num_rows, width), num_experts = x_TE.shape, len(router_XE)
    if num_rows > _MOST_ROWS or x_TE.dtype == torch.float64:
        return reference(x_TE, router_XE)
    assert_contiguous(x_TE=x_TE, router_XE=router_XE)
    logits_TX = torch.empty((num_rows, num_experts), dtype=torch.float32, device=x_TE.device)
    launch(_logits_kernel, (triton.cdiv(num_experts, _EXPERTS), triton.cdiv(num_rows, _ROWS)), x_TE, router_XE,
           logits_TX, num_rows, num_experts, width, ROWS=_ROWS, EXPERTS=_EXPERTS, DEPTH=_DEPTH, num_warps=4,
           num_stages=num_pipeline_stages(4))
    return logits_TX


@triton.jit(do_not_specialize=["num_rows"])
def _logits_kernel(x_ptr, router_ptr, logits_ptr, num_rows, num_experts, width, ROWS: tl.constexpr,
                   EXPERTS: tl.constexpr, DEPTH: tl.constexpr):
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    expert = tl.program_id(0) * EXPERTS + tl.arange(0, EXPERTS)
    depth = tl.arange(0, DEPTH)[None, :]
    x_ptrs = x_ptr + tl.minimum(row, num_rows - 1) * width + depth
    router_ptrs = router_ptr + tl.minimum(expert, num_experts - 1)[:, None] * width + depth
    total = tl.zeros([ROWS, EXPERTS], dtype=tl.float32)
    for start in range(0, width, DEPTH):
        inside = depth < width - start
        x = tl.load(x_ptrs, mask=inside, other=0).to(tl.float32)
        weights = tl.load(router_ptrs, mask=inside, other=0).to(tl.float32)
        total = tl.dot(x, tl.trans(weights), total, input_precision="ieee")
        x_ptrs += DEPTH
        router_ptrs += DEPTH
    tl.store(logits_ptr + row * num_experts + expert[None, :], total,
             mask=(row < num_rows) & (expert[None, :] < num_experts))


@dataclass(frozen=True)
class RouterLogitsCase(Case):
    """`rows` positions of `width` against `num_experts`, whose weights are float32."""

    rows: int
    width: int
    num_experts: int
    run = staticmethod(router_logits)
    reference = staticmethod(reference)

    def __post_init__(self) -> None:
        for name in ("rows", "width", "num_experts"):
            integer_field(self, name)

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        x_TE = torch.randn(self.rows, self.width, dtype=dtype, device=device)
        return x_TE, torch.randn(self.num_experts, self.width, device=device).mul_(self.width**-0.5)

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost(self.rows * self.width * dtype.itemsize + 4 * (self.width + self.rows) * self.num_experts)
