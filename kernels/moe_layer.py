"""A whole mixture of experts as one layer: the router's product, the choice, the experts, and a shared expert.

    y = sum_a w_a expert_(x_a)(u) + shared(u),    (x, w) = route(R u)
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import gate_up, moe_experts, moe_router, swiglu
from .autocast import autocast_dtype
from .case import Case, Cost
from .checks import integer_field
from .dispatch import runs_triton
from .moe_assignments import route_and_sort
from .moe_experts import assigned_experts, experts
from .moe_router import Routing, Scoring, route
from .moe_sort import ExpertLoad
from .router_logits import router_logits

# The logit of experts that no token may choose: below all that a load draws.
_FAR = -20.0


def mixture_of_experts(x_TE: Tensor, router_XE: Tensor, bias_X: Tensor | None, gate_up_XGE: Tensor, down_XEM: Tensor,
                       routing: Routing, shared_gate_up_GE: Tensor | None = None,
                       shared_down_ES: Tensor | None = None) -> Tensor:
    """The layer, [T, E]: the router's product in float32 (router_XE [X, E], kept in float32 where its cast should cost
    nothing), the choice of experts (moe_router), their weighted sum (moe_experts), and the shared expert, [2 S, E] and
    [E, S], where there is one."""
    shared = None
    if shared_gate_up_GE is not None and shared_down_ES is not None:
        shared = shared_gate_up_GE, shared_down_ES
    logits_TX = router_logits(x_TE, router_XE)
    if fuses(x_TE, router_XE, bias_X, gate_up_XGE, down_XEM, shared):
        joins = shared is not None and joins_the_experts(shared[1], down_XEM)
        assignments = route_and_sort(logits_TX, bias_X, routing, joins)
        y_TE = assigned_experts(x_TE, gate_up_XGE, down_XEM, assignments, shared if joins else None)
        shared = None if joins else shared
    else:
        y_TE = experts(x_TE, gate_up_XGE, down_XEM, *route(logits_TX, bias_X, routing))
    if shared is None:
        return y_TE
    if gate_up.pays(x_TE, shared[0]):
        return y_TE + F.linear(gate_up.gate_up_swiglu(x_TE, shared[0]), shared[1])
    return y_TE + F.linear(swiglu.swiglu(F.linear(x_TE, shared[0])), shared[1])


def fuses(x_TE: Tensor, *others: Any) -> bool:
    """Whether Triton runs the layer of all these, in the fewest launches."""
    return runs_triton(x_TE, *others) and autocast_dtype(x_TE) is None


def joins_the_experts(shared_down_ES: Tensor, down_XEM: Tensor) -> bool:
    """Whether a shared expert has the experts' width, and may be multiplied with them."""
    return shared_down_ES.shape == down_XEM.shape[1:]


def reference(x_TE: Tensor, router_XE: Tensor, bias_X: Tensor | None, gate_up_XGE: Tensor, down_XEM: Tensor,
              routing: Routing, shared_gate_up_GE: Tensor | None = None,
              shared_down_ES: Tensor | None = None) -> Tensor:
    """What `mixture_of_experts` gives, in plain PyTorch."""
    precise = torch.promote_types(x_TE.dtype, torch.float32)
    chosen = moe_router.reference(F.linear(x_TE.to(precise), router_XE.to(precise)), bias_X, routing)
    y_TE = moe_experts.reference(x_TE, gate_up_XGE, down_XEM, *chosen)
    if shared_gate_up_GE is None or shared_down_ES is None:
        return y_TE
    return y_TE + F.linear(swiglu.reference(F.linear(x_TE, shared_gate_up_GE)), shared_down_ES)


@dataclass(frozen=True)
class LayerCase(Case):
    """The layer on tokens that go where `load` says: the router's rows are orthonormal, and a token is the sum of them
    by its logits. `shared_width` is the shared expert's (0: none)."""

    load: ExpertLoad
    width: int
    expert_width: int
    routing: Routing
    shared_width: int = 0
    run = staticmethod(mixture_of_experts)
    reference = staticmethod(reference)

    def __post_init__(self) -> None:
        integer_field(self, "width", at_least=self.load.num_experts)
        integer_field(self, "expert_width")
        integer_field(self, "shared_width", at_least=0)
        if self.routing.top_k != self.load.top_k:
            raise ValueError(f"top_k={self.routing.top_k}: must be the load's, {self.load.top_k}")

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
        load, width = self.load, self.width

        def random(*size: int) -> Tensor:
            return torch.randn(*size, dtype=dtype, device=device).mul_(size[-1] ** -0.5)

        router_XE = torch.linalg.qr(torch.randn(width, load.num_experts, device=device)).Q.T.contiguous()
        bias_X = torch.zeros(load.num_experts, device=device) if self.routing.scoring is Scoring.SIGMOID else None
        weights = random(load.num_experts, 2 * self.expert_width, width), random(load.num_experts, width,
                                                                                 self.expert_width)
        shared = (random(2 * self.shared_width, width), random(width, self.shared_width)) if self.shared_width else ()
        return (self._logits().to(device) @ router_XE).to(dtype), router_XE, bias_X, *weights, self.routing, *shared

    def _logits(self) -> Tensor:
        score_TX = self.load.scores()
        return F.pad(score_TX, (0, self.load.num_experts - score_TX.shape[1]), value=_FAR)

    def num_distinct(self) -> int:
        """How many experts have at least one token. Limited to the best groups, tokens go elsewhere than their load
        alone would send them."""
        return len(moe_router.reference(self._logits(), None, self.routing)[0].unique())

    def cost(self, dtype: torch.dtype) -> Cost:
        """Reads the weights of the router, of the experts that have tokens and of the shared one, each once."""
        load, per_width = self.load, 3 * self.width
        read = per_width * (self.num_distinct() * self.expert_width + self.shared_width)
        products = per_width * (load.top_k * self.expert_width + self.shared_width) + self.width * load.num_experts
        activations = 2 * load.num_tokens * self.width
        return Cost((read + activations) * dtype.itemsize + 4 * self.width * load.num_experts,
                    2 * load.num_tokens * products)
