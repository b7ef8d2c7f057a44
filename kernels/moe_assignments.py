"""The assignments of tokens to experts, sorted by expert: what the experts' products start from.

    (x, w) = route(z),   order, count = sort_by_expert(x)        (moe_router, moe_sort)

With a shared expert, which every token takes with a weight of 1, that is one more choice, of the expert after the last.
Few rows are routed and sorted by one program: its rows' choices lie in registers as a matrix [rows, experts], whose
column sums are the counts and whose running column sums are the places within an expert.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import moe_router, moe_sort
from .case import Cost, tensors_of
from .dispatch import kernel
from .moe_router import RouterCase, Routing, launch_route, padded_experts, route

_MOST_ROWS, _MOST_LANES = 32, 8192  # of one program: its rows times experts lie in its registers


@dataclass(frozen=True)
class Assignments:
    """Experts int32 and weights float32 [T, B] of T tokens, B = top_k, or top_k + 1 with the shared expert, the last;
    and what `sort_by_expert` gives of them: order_P int32 [T B] and count_Y int32 [X], or [X + 1]."""

    expert_TB: Tensor
    weight_TB: Tensor
    order_P: Tensor
    count_Y: Tensor


def reference(logits_TX: Tensor, bias_X: Tensor | None, routing: Routing, has_shared: bool) -> Assignments:
    """The assignments by router logits [T, X] (any float dtype), as `moe_router.route` chooses and weighs experts."""
    expert_TB, weight_TB = with_shared(*moe_router.reference(logits_TX, bias_X, routing), logits_TX.shape[1],
                                       has_shared)
    return Assignments(expert_TB, weight_TB, *moe_sort.reference(expert_TB, logits_TX.shape[1] + has_shared))


def with_shared(expert_TA: Tensor, weight_TA: Tensor, num_experts: int, has_shared: bool) -> tuple[Tensor, Tensor]:
    """Experts and weights with the shared expert's column, if there is one."""
    if not has_shared:
        return expert_TA, weight_TA
    column = (len(expert_TA), 1)
    return (torch.cat((expert_TA, expert_TA.new_full(column, num_experts)), dim=1),
            torch.cat((weight_TA, weight_TA.new_ones(column)), dim=1))


def _check(logits_TX: Tensor, bias_X: Tensor | None, routing: Routing, has_shared: bool) -> None:
    moe_router.check(logits_TX, bias_X, routing)


@kernel(reference, check=_check)
def route_and_sort(logits_TX: Tensor, bias_X: Tensor | None, routing: Routing, has_shared: bool) -> Assignments:
    num_rows, num_experts = logits_TX.shape
    if not 0 < num_rows <= min(_MOST_ROWS, _MOST_LANES // padded_experts(num_experts, routing)):
        expert_TB, weight_TB = with_shared(*route(logits_TX, bias_X, routing), num_experts, has_shared)
        return Assignments(expert_TB, weight_TB, *moe_sort.sort_by_expert(expert_TB, num_experts + has_shared))
    size = (num_rows, routing.top_k + has_shared)
    expert_TB = torch.empty(size, dtype=torch.int32, device=logits_TX.device)
    weight_TB = torch.empty(size, dtype=torch.float32, device=logits_TX.device)
    order_P = torch.empty((size[0] * size[1],), dtype=torch.int32, device=logits_TX.device)
    count_Y = torch.empty((num_experts + has_shared,), dtype=torch.int32, device=logits_TX.device)
    launch_route(logits_TX, bias_X, routing, expert_TB, weight_TB, (order_P, count_Y))
    return Assignments(expert_TB, weight_TB, order_P, count_Y)


@dataclass(frozen=True)
class AssignmentsCase(RouterCase):
    """The choice of experts of `rows` tokens, and its sort."""

    has_shared: bool = False

    def run(self, logits_TX: Tensor, bias_X: Tensor | None, routing: Routing) -> tuple[Tensor, ...]:
        return tuple(tensors_of(route_and_sort(logits_TX, bias_X, routing, self.has_shared)))

    def reference(self, logits_TX: Tensor, bias_X: Tensor | None, routing: Routing) -> tuple[Tensor, ...]:
        return tuple(tensors_of(reference(logits_TX, bias_X, routing, self.has_shared)))

    def cost(self, dtype: torch.dtype) -> Cost:
        num_assignments = self.rows * (self.routing.top_k + self.has_shared)
        return Cost(self.rows * self.num_experts * dtype.itemsize + 12 * num_assignments + 4 * self.num_experts)
