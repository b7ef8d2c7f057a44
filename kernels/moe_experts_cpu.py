"""A mixture's experts on a CPU, where each expert's number of rows may be read: each multiplies its own rows alone.

A single position takes matrices times vectors, and nothing is sorted. Several take one product after the other, in one
call. Many in training take batched products, which copy the weights and are differentiable once (moe_experts_padded).
Large experts of a loaded model are packed besides (packed_experts).

Without a gradient all of it is one operator of PyTorch's, so that a captured step need not know what is read in it.
"""

from collections.abc import Callable, Sequence
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from . import moe_experts_padded, moe_sort
from .autocast import autocast_dtype
from .dispatch import note

# Rows an expert on average from which on batched products with a gradient of their own beat one after the other.
_MANY_ROWS = 64

Weights = Sequence[Tensor] | Tensor
"""Matrices by expert."""
Product = Callable[[Tensor, Tensor], Tensor]
"""Rows times one of them, as F.linear multiplies."""


class Algorithm(Enum):
    """How the experts are multiplied, in the words of records."""

    ONE_ROW = "matrices times vectors"
    PADDED = "batched products of padded rows"
    GROUPED = "grouped products"
    PER_EXPERT = "one expert after the other"


def experts_on_cpu(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, expert_TA: Tensor, weight_TA: Tensor) -> Tensor:
    compute = _experts if torch.is_grad_enabled() else torch.ops.quicksilver.experts
    return compute(x_TE, gate_up_XGE, down_XEM, expert_TA, weight_TA)


def _experts(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, expert_TA: Tensor, weight_TA: Tensor) -> Tensor:
    num_experts = len(gate_up_XGE)
    if len(x_TE) == 1 and autocast_dtype(x_TE) is None:
        note("experts", Algorithm.ONE_ROW)
        return one_row(x_TE, (gate_up_XGE, down_XEM), (expert_TA, weight_TA), F.linear)
    if torch.is_grad_enabled() and expert_TA.numel() >= _MANY_ROWS * num_experts:
        note("experts", Algorithm.PADDED)
        slots = moe_experts_padded.assign_slots(expert_TA, num_experts)
        return moe_experts_padded.padded_experts(x_TE, gate_up_XGE, down_XEM, weight_TA, slots)
    can_group = _can_group(gate_up_XGE, down_XEM)
    note("experts", Algorithm.GROUPED if can_group else Algorithm.PER_EXPERT)
    multiply = _grouped if can_group else _per_expert
    return sorted_rows(x_TE, (expert_TA, weight_TA), num_experts,
                       lambda row_PE, count_X: multiply(row_PE, gate_up_XGE, down_XEM, count_X))


def _shape_of_experts(x_TE: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(x_TE)


_library = torch.library.Library("quicksilver", "FRAGMENT")
_library.define("experts(Tensor x, Tensor gate_up, Tensor down, Tensor expert, Tensor weight) -> Tensor")
_library.impl("experts", _experts, "CPU")
_library.impl("experts", _shape_of_experts, "Meta")


def one_row(x_1E: Tensor, weights: tuple[Weights, Weights], chosen: tuple[Tensor, Tensor], product: Product) -> Tensor:
    """The next token's experts. `weights` are gate_up_XGE and down_XEM as `product` takes their matrices; `chosen` are
    expert_TA and weight_TA."""
    (gate_up_X, down_X), (expert_1A, weight_1A) = weights, chosen
    experts_A = expert_1A[0].tolist()
    gate_AM, up_AM = torch.cat([product(x_1E, gate_up_X[expert]) for expert in experts_A]).chunk(2, dim=-1)
    hidden_AM = F.silu(gate_AM) * up_AM
    row_AE = torch.cat([product(hidden_1M, down_X[expert])
                        for expert, hidden_1M in zip(experts_A, hidden_AM.split(1), strict=True)])
    if weight_1A.dtype == x_1E.dtype:
        return torch.mm(weight_1A, row_AE)
    return (row_AE * weight_1A[0, :, None]).sum(0, keepdim=True).to(x_1E.dtype)


def sorted_rows(x_TE: Tensor, chosen: tuple[Tensor, Tensor], num_experts: int,
                multiply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """What `multiply` makes of the rows sorted by expert, [P, E], and of each expert's number of them, summed for each
    token by its weights."""
    expert_TA, weight_TA = chosen
    num_rows, top_k = expert_TA.shape
    order_P, count_X = moe_sort.reference(expert_TA, num_experts)
    sorted_PE = multiply(x_TE.index_select(0, order_P // top_k), count_X)
    place_P = torch.empty_like(order_P).scatter_(0, order_P.long(), torch.arange(len(order_P), dtype=order_P.dtype))
    row_PE = sorted_PE.index_select(0, place_P)
    return (row_PE.view(num_rows, top_k, x_TE.shape[1]) * weight_TA[..., None]).sum(1).to(x_TE.dtype)


def _grouped(row_PE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, count_X: Tensor) -> Tensor:
    """The experts of rows that are sorted by them."""
    end_X = count_X.cumsum(0, dtype=torch.int32)
    gate_PM, up_PM = F.grouped_mm(row_PE, gate_up_XGE.transpose(1, 2), offs=end_X).chunk(2, dim=-1)
    return F.grouped_mm(F.silu(gate_PM) * up_PM, down_XEM.transpose(1, 2), offs=end_X)


def _can_group(*weights: Tensor) -> bool:
    """Whether torch's grouped product takes these: no float64, no gaps, and rows of whole 16 bytes."""
    return all(weight.dtype != torch.float64 and weight.is_contiguous() and weight.shape[-1] * weight.itemsize % 16 == 0
               for weight in weights)


def _per_expert(row_PE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, count_X: Tensor) -> Tensor:
    """What `_grouped` gives, of any weights."""
    groups = row_PE.split(count_X.tolist())
    results = [swiglu(rows, gate_up_XGE[expert], down_XEM[expert]) for expert, rows in enumerate(groups) if len(rows)]
    return torch.cat([*results, row_PE[:0]])


def swiglu(x_TE: Tensor, gate_up_GE: Tensor, down_EM: Tensor) -> Tensor:
    """One expert of all rows."""
    gate_TM, up_TM = F.linear(x_TE, gate_up_GE).chunk(2, dim=-1)
    return F.linear(F.silu(gate_TM) * up_TM, down_EM)
