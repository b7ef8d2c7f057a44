"""A mixture's experts for many rows on a CPU, as in training: batched products of padded groups, and their gradient.

    y_t = sum_a D_x (w_ta h_ta),    h_ta = silu(G_x u_t) * (U_x u_t)

The assignments of an expert lie in slots side by side, padded to a round number, and experts with as many slots are
multiplied together. A slot without an assignment holds row 0 with weight 0, so that nothing comes of it. The gradient
is written out: it moves rows as the forward does, which autograd's own (index_put) takes longer for than the products.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .autocast import autocast_dtype

# An expert's slots are a multiple of _STEP, and no more than _TOGETHER experts are multiplied together: oneDNN prepares
# every new shape of 16-bit products for longer than it multiplies.
_STEP, _TOGETHER = 64, 8


@dataclass(frozen=True)
class PaddedSlots:
    """Where assignments lie, int64: the slot of each, the row that each of N slots holds (0 in padding), the experts
    from the fullest on; `groups` of those that are multiplied together: their places in expert_X, their slots, and how
    many each of them has."""

    slot_TA: Tensor
    row_N: Tensor
    expert_X: Tensor
    groups: list[tuple[slice, slice, int]]


def assign_slots(expert_TA: Tensor, num_experts: int) -> PaddedSlots:
    """The slots of assignments of rows to experts (int32 [T, A])."""
    assert num_experts <= torch.iinfo(torch.int16).max
    expert_P = expert_TA.reshape(-1).to(torch.int16).numpy()  # numpy sorts 16 bits by counting
    order_P, count_X = expert_P.argsort(kind="stable"), np.bincount(expert_P, minlength=num_experts)
    expert_X = np.argsort(-count_X, kind="stable")
    length_X = -(-count_X[expert_X] // _STEP) * _STEP
    end_X, begin_X = length_X.cumsum(), np.empty_like(count_X)
    begin_X[expert_X] = end_X - length_X
    sorted_slot_P = np.arange(len(expert_P)) + np.repeat(begin_X - (count_X.cumsum() - count_X), count_X)
    slot_P, row_N = np.empty_like(order_P), np.zeros(end_X[-1], dtype=np.int64)
    slot_P[order_P] = sorted_slot_P
    row_N[sorted_slot_P] = order_P // expert_TA.shape[1]
    groups, first = [], 0
    while first < num_experts and (length := int(length_X[first])):
        last = first + int((length_X[first : first + _TOGETHER] == length).sum())
        groups.append((slice(first, last), slice(int(end_X[first]) - length, int(end_X[last - 1])), length))
        first = last
    return PaddedSlots(torch.from_numpy(slot_P).view(expert_TA.shape), torch.from_numpy(row_N),
                       torch.from_numpy(expert_X), groups)


def padded_experts(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, weight_TA: Tensor, slots: PaddedSlots
                   ) -> Tensor:
    """What `moe_experts.reference` gives, [T, E] in x's dtype, multiplied in autocast's dtype where that is enabled.
    Differentiable once."""
    dtype = autocast_dtype(x_TE) or x_TE.dtype
    return _PaddedExperts.apply(x_TE, gate_up_XGE, down_XEM, weight_TA, slots, dtype)


class _PaddedExperts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, weight_TA: Tensor, slots: PaddedSlots,
                dtype: torch.dtype) -> Tensor:
        gate_up_XGE, down_XEM = (weight_XDF.to(dtype).index_select(0, slots.expert_X)
                                 for weight_XDF in (gate_up_XGE, down_XEM))
        weight_N1 = torch.zeros((len(slots.row_N), 1), dtype=dtype)
        weight_N1.index_copy_(0, slots.slot_TA.view(-1), weight_TA.to(dtype).reshape(-1, 1))
        x_NE = x_TE.to(dtype).index_select(0, slots.row_N)
        gate_up_NG = _multiply(x_NE, gate_up_XGE.transpose(1, 2), slots)
        gate_NM, up_NM = gate_up_NG.chunk(2, dim=-1)
        gate_NM = gate_NM.contiguous()  # torch's silu takes twice as long over rows with gaps
        silu_NM = F.silu(gate_NM)
        hidden_NM = silu_NM * up_NM
        weighted_NM = hidden_NM * weight_N1
        y_TE = _sum(_multiply(weighted_NM, down_XEM.transpose(1, 2), slots), slots)
        ctx.save_for_backward(x_NE, gate_NM, up_NM, silu_NM, hidden_NM, weighted_NM, gate_up_XGE, down_XEM, weight_N1)
        ctx.slots = slots
        return y_TE.to(x_TE.dtype)

    @staticmethod
    @once_differentiable  # which hides the arguments' names
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
            ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Every tensor named `d_...` is the loss's gradient by it; types are cast back by autograd."""
        (d_y_TE,) = grad_outputs
        x_NE, gate_NM, up_NM, silu_NM, hidden_NM, weighted_NM, gate_up_XGE, down_XEM, weight_N1 = ctx.saved_tensors
        slots = ctx.slots
        d_row_NE = d_y_TE.to(x_NE.dtype).index_select(0, slots.row_N)
        d_weighted_NM = _multiply(d_row_NE, down_XEM, slots)
        d_weight_TA = (d_weighted_NM * hidden_NM).sum(-1)[slots.slot_TA]
        d_hidden_NM = d_weighted_NM.mul_(weight_N1)
        d_gate_NM = torch.ops.aten.silu_backward(d_hidden_NM * up_NM, gate_NM)
        d_gate_up_NG = torch.cat([d_gate_NM, d_hidden_NM.mul_(silu_NM)], dim=-1)
        needs_x, needs_gate_up, needs_down, *_ = ctx.needs_input_grad
        return (_sum(_multiply(d_gate_up_NG, gate_up_XGE, slots), slots) if needs_x else None,
                _multiply_transposed(d_gate_up_NG, x_NE, slots) if needs_gate_up else None,
                _multiply_transposed(d_row_NE, weighted_NM, slots) if needs_down else None, d_weight_TA, None, None)


def _multiply(value_ND: Tensor, matrix_XDF: Tensor, slots: PaddedSlots) -> Tensor:
    """Every slot's value times its expert's matrix, [N, F]; the matrices lie from the fullest expert's on."""
    result_NF = value_ND.new_empty((len(value_ND), matrix_XDF.shape[2]))
    for experts, held, length in slots.groups:
        torch.bmm(_per_expert(value_ND[held], length), matrix_XDF[experts], out=_per_expert(result_NF[held], length))
    return result_NF


def _multiply_transposed(left_ND: Tensor, right_NF: Tensor, slots: PaddedSlots) -> Tensor:
    """Over every expert's slots the sum of left times right, [X, D, F], in the experts' own order."""
    sorted_XDF = left_ND.new_zeros((len(slots.expert_X), left_ND.shape[1], right_NF.shape[1]))
    for experts, held, length in slots.groups:
        torch.bmm(_per_expert(left_ND[held], length).transpose(1, 2), _per_expert(right_NF[held], length),
                  out=sorted_XDF[experts])
    return torch.empty_like(sorted_XDF).index_copy_(0, slots.expert_X, sorted_XDF)


def _per_expert(value_ND: Tensor, length: int) -> Tensor:
    """The slots of experts that have so many each: [experts, length, D]."""
    return value_ND.unflatten(0, (-1, length))


def _sum(value_NE: Tensor, slots: PaddedSlots) -> Tensor:
    """Every row's sum over its assignments, [T, E]: torch's embedding bag is that sum."""
    return F.embedding_bag(slots.slot_TA, value_NE, mode="sum")
