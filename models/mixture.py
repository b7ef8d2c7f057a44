"""A mixture-of-experts feed-forward layer: router, experts and an optional shared expert.

    y = sum_a w_a expert_(x_a)(u) + shared(u)

The router computes in float32 whatever the model's dtype, and its weights stay float32 when the model is cast: rounding
must not decide which experts are selected. Its bias enters the selection only and is a buffer, not a parameter:
loss-free balancing moves it (DeepSeek-V3, arXiv 2412.19437), and checkpoints hold it. `models.routers` records results
and replaces the routing rule from outside.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.moe_experts import experts
from ..kernels.moe_router import route
from .config import ExpertShape
from .layers import SwiGLU
from .routing_rules import RoutingRule, TokenChoice


class RoutingResult(NamedTuple):
    """Experts (int32) and weights (float32) of each position, both [B, F, top_k], and float32 logits [B, F, X]."""

    expert_BFA: Tensor
    weight_BFA: Tensor
    logits_BFX: Tensor


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

    def forward(self, x_BFE: Tensor) -> RoutingResult:
        if not torch.is_autocast_enabled(x_BFE.device.type):
            return self._route(x_BFE)
        with torch.autocast(x_BFE.device.type, enabled=False):
            return self._route(x_BFE)

    def _route(self, x_BFE: Tensor) -> RoutingResult:
        precise = torch.promote_types(x_BFE.dtype, torch.float32)
        logits_BFX = F.linear(x_BFE.to(precise), self.weight.to(precise))
        return RoutingResult(*self.rule.route(logits_BFX, self._select, self.routing), logits_BFX)

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
    """Weights have the layout of `kernels.moe_experts`. Transformer initialises them."""

    def __init__(self, width: int, shape: ExpertShape) -> None:
        super().__init__()
        self.router = Router(width, shape)
        self.gate_up_XGE = nn.Parameter(torch.empty(shape.num_experts, 2 * shape.expert_width, width))
        self.down_XEM = nn.Parameter(torch.empty(shape.num_experts, width, shape.expert_width))
        self.shared = SwiGLU(width, shape.shared_width) if shape.shared_width else None

    def forward(self, x_BFE: Tensor) -> Tensor:
        x_TE = x_BFE.flatten(0, 1)
        expert_BFA, weight_BFA, _ = self.router(x_BFE)
        y_TE = experts(x_TE, self.gate_up_XGE, self.down_XEM, expert_BFA.flatten(0, 1), weight_BFA.flatten(0, 1))
        if self.shared is not None:
            y_TE = y_TE + self.shared(x_TE)
        return y_TE.view_as(x_BFE)
