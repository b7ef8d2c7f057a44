"""The experts of a mixture: each token's chosen SwiGLU networks, summed by their weights.

    h_p = silu(G_x u_p) * (U_x u_p)          for each assignment p of a token u_p to an expert x
    y_t = sum_a weight_ta * D_x h_(t,a)      in the order of a, in float32: no atomics

Assignments are sorted by expert (moe_sort) and multiplied by its weights, tile by tile (grouped_product). A shared
expert as wide as the others is one more of them, which every token takes with a weight of 1.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import moe_experts_cpu, moe_sort
from .autocast import autocast_dtype
from .case import Case, Cost, with_tensors
from .checks import integer_field
from .dispatch import Implementation, kernel, launch, note
from .grouped_product import Groups, multiply, tiles
from .moe_assignments import Assignments
from .tensor_checks import assert_contiguous, check_dtype, check_rank, check_shape


def reference(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, expert_TA: Tensor, weight_TA: Tensor) -> Tensor:
    """The weighted sum of each token's experts, [T, E] in x's dtype.

    x_TE [T, E]; gate_up_XGE [X, 2 M, E], an expert's gate rows before its up rows, and down_XEM [X, E, M], as
    nn.Linear keeps them, of x's dtype; expert_TA int32 [T, A] and weight_TA float32 [T, A] as `route` gives them. Under
    autocast the products are of its dtype. Differentiable in PyTorch, with many tokens on a CPU once. The reference
    multiplies every token by every expert."""
    sum_TE = torch.zeros_like(x_TE, dtype=torch.promote_types(x_TE.dtype, weight_TA.dtype))
    for expert, (gate_up_GE, down_EM) in enumerate(zip(gate_up_XGE, down_XEM, strict=True)):
        weight_T1 = (weight_TA * (expert_TA == expert)).sum(1, keepdim=True)
        sum_TE = sum_TE + weight_T1 * moe_experts_cpu.swiglu(x_TE, gate_up_GE, down_EM)
    return sum_TE.to(x_TE.dtype)


def _check(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, expert_TA: Tensor, weight_TA: Tensor) -> None:
    check_rank("x_TE", x_TE, 2)
    check_rank("down_XEM", down_XEM, 3)
    check_rank("expert_TA", expert_TA, 2)
    (num_rows, width), (num_experts, _, expert_width) = x_TE.shape, down_XEM.shape
    check_shape("down_XEM", down_XEM, num_experts, width, expert_width)
    check_shape("gate_up_XGE", gate_up_XGE, num_experts, 2 * expert_width, width)
    check_shape("expert_TA", expert_TA, num_rows, expert_TA.shape[1])
    check_shape("weight_TA", weight_TA, *expert_TA.shape)
    check_dtype("expert_TA", expert_TA, torch.int32)


@kernel(reference, check=_check, cpu=moe_experts_cpu.experts_on_cpu)
def experts(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, expert_TA: Tensor, weight_TA: Tensor) -> Tensor:
    in_order = moe_sort.sort_by_expert(expert_TA, len(gate_up_XGE))
    return assigned_experts(x_TE, gate_up_XGE, down_XEM, Assignments(expert_TA, weight_TA, *in_order), None)


def assigned_experts(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, assignments: Assignments,
                     shared: tuple[Tensor, Tensor] | None) -> Tensor:
    """What `experts` gives where Triton runs, in three launches, of tokens that are sorted already. `shared` are the
    weights of the expert after the last, [2 M, E] and [E, M], where the assignments have it, and only there:
    ValueError."""
    num_weights = len(gate_up_XGE) + (shared is not None)
    if len(assignments.count_Y) != num_weights:
        raise ValueError(f"assignments to {len(assignments.count_Y)} experts: must be to the {num_weights} whose "
                         "weights are given, the shared one's included")
    note("experts", Implementation.TRITON)
    product_dtype = autocast_dtype(x_TE)
    weight_TB, groups = assignments.weight_TB, Groups(assignments.order_P, assignments.count_Y,
                                                      assignments.expert_TB.shape[1])
    (num_rows, width), expert_width = x_TE.shape, down_XEM.shape[2]
    num_assignments, dtype = len(assignments.order_P), x_TE.dtype
    if product_dtype is not None:
        x_TE, gate_up_XGE, down_XEM, shared = with_tensors(
            (x_TE, gate_up_XGE, down_XEM, shared), lambda tensor: tensor.to(product_dtype))
    shared_gate_up_GE, shared_down_EM = shared or (None, None)
    assert_contiguous(x_TE=x_TE, gate_up_XGE=gate_up_XGE, down_XEM=down_XEM, weight_TB=weight_TB,
                      shared_gate_up_GE=shared_gate_up_GE, shared_down_EM=shared_down_EM)
    hidden_PM = torch.empty((num_assignments, expert_width), dtype=x_TE.dtype, device=x_TE.device)
    row_PE = torch.empty((num_assignments, width), dtype=x_TE.dtype, device=x_TE.device)
    y_TE = torch.empty((num_rows, width), dtype=dtype, device=x_TE.device)
    gate_up, down = tiles(num_assignments, len(assignments.count_Y), x_TE)
    multiply(gate_up, x_TE, gate_up_XGE, hidden_PM, groups, gated=True, last_NK=shared_gate_up_GE)
    multiply(down, hidden_PM, down_XEM, row_PE, groups, gated=False, last_NK=shared_down_EM)
    block = min(1024, triton.next_power_of_2(width))
    launch(_combine_kernel, (num_rows, triton.cdiv(width, block)), row_PE, weight_TB, y_TE, width,
           TOP_K=groups.top_k, BLOCK=block, num_warps=4)
    return y_TE


@triton.jit
def _combine_kernel(rows_ptr, weight_ptr, y_ptr, width, TOP_K: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    total = tl.zeros([BLOCK], dtype=tl.float32)
    # Unrolled, so that all loads are under way at once.
    for choice in tl.static_range(TOP_K):  # pyright: ignore[reportGeneralTypeIssues]
        assignment = token * TOP_K + choice
        weight = tl.load(weight_ptr + assignment).to(tl.float32)
        total += weight * tl.load(rows_ptr + assignment * width + column, mask=inside, other=0).to(tl.float32)
    tl.store(y_ptr + token * width + column, total.to(y_ptr.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class ExpertsCase(Case):
    """The weighted experts, `expert_width` wide, of tokens of `width` under one load."""

    load: moe_sort.ExpertLoad
    width: int
    expert_width: int
    run = staticmethod(experts)
    reference = staticmethod(reference)

    @property
    def needs_hgmma(self) -> bool:
        return True

    def __post_init__(self) -> None:
        integer_field(self, "width")
        integer_field(self, "expert_width")

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        load, width = self.load, self.width
        x_TE = torch.randn(load.num_tokens, width, dtype=dtype, device=device)
        gate_up_XGE = torch.randn(load.num_experts, 2 * self.expert_width, width, dtype=dtype, device=device)
        down_XEM = torch.randn(load.num_experts, width, self.expert_width, dtype=dtype, device=device)
        weight_TA = torch.rand(load.num_tokens, load.top_k, device=device).softmax(-1)
        return (x_TE, gate_up_XGE.mul_(width**-0.5), down_XEM.mul_(self.expert_width**-0.5), load.draw().to(device),
                weight_TA)

    def cost(self, dtype: torch.dtype) -> Cost:
        """Reads the weights of the experts that have tokens, once."""
        load, matrices = self.load, 3 * self.width * self.expert_width
        assignments = load.num_tokens * load.top_k
        activations = 2 * load.num_tokens * self.width
        return Cost((load.num_distinct() * matrices + activations) * dtype.itemsize + 8 * assignments,
                    2 * assignments * matrices)
