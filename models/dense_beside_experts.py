"""A dense feed-forward network with experts beside it, as Gemma 4 has them (transformers' modeling_gemma4).

    y = norm(dense(norm(s))) + norm(sum_a w_a expert_(x_a)(norm(s)))          s the residual stream, each norm its own

The router reads the stream over the root of its mean square, times a weight of its own and 1 / sqrt(width). The weights
of the experts that it chooses, which sum to one, are multiplied by a scale of each expert's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.router_logits import router_logits
from .config import ExpertShape, Shape
from .layers import GeGLU, geglu, norm_of, unit_norm
from .mixture import Router, RoutingResult


class NormedRouter(Router):
    """Computes in float32, and its weights stay so, as Router's."""

    def __init__(self, width: int, shape: ExpertShape, eps: float) -> None:
        super().__init__(width, shape)
        self.scale_E = nn.Parameter(torch.ones(width, dtype=torch.float32))
        self.expert_scale_X = nn.Parameter(torch.ones(shape.num_experts, dtype=torch.float32))
        self.eps = eps

    def _route(self, x_BFE: Tensor, joins_shared: bool) -> RoutingResult:
        x_BFE = unit_norm(x_BFE, self.eps) * self.scale_E * x_BFE.shape[-1] ** -0.5
        logits_BFX = router_logits(x_BFE.flatten(0, 1), self.weight).unflatten(0, x_BFE.shape[:2])
        expert_BFA, weight_BFA = self.rule.route(logits_BFX, self._select, self.routing)
        return RoutingResult(expert_BFA, weight_BFA * self.expert_scale_X[expert_BFA.long()], logits_BFX)


class DenseBesideExperts(GeGLU):
    """The dense network, and experts in the layout of MoELayer's."""

    def __init__(self, shape: Shape, experts: ExpertShape) -> None:
        super().__init__(shape.width, shape.ffn_width)
        self.post_norm, self.experts_norm, self.experts_post_norm = (norm_of(shape, shape.width) for _ in range(3))
        self.router = NormedRouter(shape.width, experts, shape.norm_eps)
        self.gate_up_XGE = nn.Parameter(torch.empty(experts.num_experts, 2 * experts.expert_width, shape.width))
        self.down_XEM = nn.Parameter(torch.empty(experts.num_experts, shape.width, experts.expert_width))

    def forward(self, x: Tensor, stream: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What is added to the stream [B, F, E] once it is normalised; x is the stream after the norm before the dense
        network."""
        dense = self.post_norm(super().forward(x), None)[0]
        routed = self.router(stream)
        chosen = routed.expert_BFA.flatten(0, 1), routed.weight_BFA.flatten(0, 1)
        mixed = self._experts(self.experts_norm(stream, None)[0].flatten(0, 1), *chosen)
        return dense + self.experts_post_norm(mixed.view_as(stream), None)[0]

    def _experts(self, x_TE: Tensor, expert_TA: Tensor, weight_TA: Tensor) -> Tensor:
        total_TE = torch.zeros_like(x_TE, dtype=torch.promote_types(x_TE.dtype, weight_TA.dtype))
        for expert in expert_TA.unique().tolist():
            row_P, place_P = (expert_TA == expert).nonzero(as_tuple=True)
            y_PE = F.linear(geglu(F.linear(x_TE[row_P], self.gate_up_XGE[expert])), self.down_XEM[expert])
            total_TE = total_TE.index_add(0, row_P, (y_PE * weight_TA[row_P, place_P, None]).to(total_TE.dtype))
        return total_TE.to(x_TE.dtype)
