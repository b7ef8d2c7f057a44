"""A mixture-of-experts feed-forward layer: router, experts and an optional shared expert.

    y = sum_a w_a expert_(x_a)(u) + shared(u)

The router computes in float32 whatever the model's dtype, and its weights stay float32 when the model is cast: rounding
must not decide which experts are selected. Its bias enters the selection only and is a buffer, not a parameter:
loss-free balancing moves it (DeepSeek-V3, arXiv 2412.19437), and checkpoints hold it. `models.routers` records results
and replaces the routing rule from outside.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..kernels.autocast import autocast_dtype
from ..kernels.dispatch import runs_triton
from ..kernels.moe_assignments import Assignments, route_and_sort
from ..kernels.moe_experts import assigned_experts
from ..kernels.moe_router import route
from ..kernels.packed_experts import PackedExperts, experts, pays
from ..kernels.router_logits import router_logits
from .config import ExpertShape
from .layers import SwiGLU
from .linear import Linear, is_plain
from .routing_rules import RoutingRule, TokenChoice


class RoutingResult(NamedTuple):
    """Experts (int32) and weights (float32) of each position, both [B, F, top_k], and float32 logits [B, F, X]. Where
    Triton runs, also the assignments of all positions sorted by expert, a shared expert's among them if asked for."""

    expert_BFA: Tensor
    weight_BFA: Tensor
    logits_BFX: Tensor
    assignments: Assignments | None = None


class Router(nn.Module):
    """Selects the experts of each position and their weights."""

    bias_X: Tensor | None

    def __init__(self, width: int, shape: ExpertShape) -> None:
        super().__init__()
        self.routing = shape.routing
        self.rule: RoutingRule = TokenChoice()
        self.weight = nn.Parameter(torch.empty(shape.num_experts, width, dtype=torch.float32))
        bias_X = torch.zeros(shape.num_experts, dtype=torch.float32) if shape.selection_bias else None
        self.register_buffer("bias_X", bias_X)

    def forward(self, x_BFE: Tensor, joins_shared: bool = False) -> RoutingResult:
        """`joins_shared`: assignments, where there are any, are to the shared expert too."""
        if autocast_dtype(x_BFE) is None:
            return self._route(x_BFE, joins_shared)
        with torch.autocast(x_BFE.device.type, enabled=False):
            return self._route(x_BFE, joins_shared)

    def _route(self, x_BFE: Tensor, joins_shared: bool) -> RoutingResult:
        x_TE, size = x_BFE.flatten(0, 1), x_BFE.shape[:2]
        logits_BFX = router_logits(x_TE, self.weight).unflatten(0, size)
        # The experts, too, must need no gradient.
        if not isinstance(self.rule, TokenChoice) or torch.is_grad_enabled() or not runs_triton(x_TE):
            expert_BFA, weight_BFA = self.rule.route(logits_BFX, self._select, self.routing)
            return RoutingResult(expert_BFA, weight_BFA, logits_BFX)
        assignments = route_and_sort(logits_BFX.flatten(0, 1), self.bias_X, self.routing, joins_shared)
        expert_BFA, weight_BFA = (value_TB[:, : self.routing.top_k].unflatten(0, size)
                                  for value_TB in (assignments.expert_TB, assignments.weight_TB))
        return RoutingResult(expert_BFA, weight_BFA, logits_BFX, assignments)

    def _select(self, logits_BFX: Tensor) -> tuple[Tensor, Tensor]:
        expert_TA, weight_TA = route(logits_BFX.flatten(0, 1), self.bias_X, self.routing)
        size = (*logits_BFX.shape[:2], self.routing.top_k)
        return expert_TA.view(size), weight_TA.view(size)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Router":
        def uncast(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(uncast, recurse)


class MoELayer(nn.Module):
    """Weights have the layout of `kernels.moe_experts`. Transformer initialises them. `pack` and what is kept of it are
    as a linear layer's (linear.py); the shared expert's layers are packed by themselves."""

    packed: PackedExperts | None = None

    def __init__(self, width: int, shape: ExpertShape) -> None:
        super().__init__()
        self.router = Router(width, shape)
        self.gate_up_XGE = nn.Parameter(torch.empty(shape.num_experts, 2 * shape.expert_width, width))
        self.down_XEM = nn.Parameter(torch.empty(shape.num_experts, width, shape.expert_width))
        self.shared = SwiGLU(width, shape.shared_width) if shape.shared_width else None

    @property
    def num_weight_bytes(self) -> int:
        return self.gate_up_XGE.nbytes + self.down_XEM.nbytes

    def pays(self, model_bytes: int) -> bool:
        """Whether packing would make it faster in a model whose layers' weights take so many bytes."""
        return pays(self.gate_up_XGE, self.down_XEM, model_bytes)

    def pack(self, model_bytes: int = 0) -> int:
        """Pack the experts' weights as they are now, if that pays. Returns the bytes of the copy."""
        self.packed = PackedExperts.of(self.gate_up_XGE, self.down_XEM, model_bytes)
        return 0 if self.packed is None else self.packed.num_bytes

    def drop_copy(self) -> None:
        """Hold the weights once."""
        self.packed = None

    unpack = drop_copy

    def forward(self, x_BFE: Tensor) -> Tensor:
        x_TE = x_BFE.flatten(0, 1)
        joins, shared = self._joins(), self.shared
        routed = self.router(x_BFE, joins)
        if routed.assignments is None:
            chosen = routed.expert_BFA.flatten(0, 1), routed.weight_BFA.flatten(0, 1)
            y_TE = experts(x_TE, self.gate_up_XGE, self.down_XEM, *chosen, packed=self.packed)
        else:
            joined = None
            if shared is not None and joins:
                joined, shared = (shared.gate_up_proj.weight, shared.down_proj.weight), None
            y_TE = assigned_experts(x_TE, self.gate_up_XGE, self.down_XEM, routed.assignments, joined)
        if shared is not None:
            y_TE = y_TE + shared(x_TE)
        return y_TE.view_as(x_BFE)

    def _joins(self) -> bool:
        """Whether the shared expert may be multiplied with the others: it has their width, and is what it was made."""
        shared = self.shared
        return (shared is not None and shared.down_proj.weight.shape == self.down_XEM.shape[1:]
                and is_plain(shared, SwiGLU) and is_plain(shared.gate_up_proj, Linear)
                and is_plain(shared.down_proj, Linear))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"packed": None}
