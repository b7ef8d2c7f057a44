"""Load balancing of experts in training.

    auxiliary loss    c X sum_x f_x p_x, f_x the fraction of assignments to expert x, p_x its mean router probability
                      (Switch, arXiv 2101.03961; over top_k as in GShard, 2006.16668, and OLMoE, 2409.02060)
    loss-free         b_x += u sign(mean load - load of x): a bias for expert selection only, without a gradient
                      (Wang et al., arXiv 2408.15664; DeepSeek-V3, 2412.19437)

Experts have no capacity limit, and no position is dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ..kernels.checks import real_field
from ..kernels.moe_router import Scoring
from .config import Shape
from .mixture import Router, RoutingResult
from .routers import expert_counts


class Balancing(Protocol):
    def check(self, shape: Shape) -> None:
        """ValueError if a model of this shape cannot be balanced this way."""
        ...

    def loss(self, routers: Sequence[Router], results: Sequence[RoutingResult]) -> Tensor | float:
        """A scalar to add to the objective, given the routing result of each layer in this update."""
        ...

    def adjust(self, routers: Sequence[Router], results: Sequence[RoutingResult]) -> None:
        """Change the routers after the update."""
        ...


@dataclass(frozen=True)
class NoBalancing:
    """Adds nothing to the objective. Also for dense models."""

    kind: ClassVar[str] = "Unbalanced"

    def check(self, shape: Shape) -> None:
        pass

    def loss(self, routers: Sequence[Router], results: Sequence[RoutingResult]) -> Tensor | float:
        return 0.0

    def adjust(self, routers: Sequence[Router], results: Sequence[RoutingResult]) -> None:
        pass


@dataclass(frozen=True)
class AuxiliaryLoss:
    """`coefficient` times the mean over layers of a loss that is 1 where all experts are equally loaded and likely."""

    coefficient: float = 0.01

    def __post_init__(self) -> None:
        real_field(self, "coefficient", above=0)

    def check(self, shape: Shape) -> None:
        _check_experts(self, shape)

    def loss(self, routers: Sequence[Router], results: Sequence[RoutingResult]) -> Tensor | float:
        layers = [_layer_loss(router, result) for router, result in zip(routers, results, strict=True)]
        return self.coefficient * torch.stack(layers).mean()

    def adjust(self, routers: Sequence[Router], results: Sequence[RoutingResult]) -> None:
        pass


@dataclass(frozen=True)
class LossFree:
    """Moves each expert's selection bias by `rate` against its load. Needs experts with a selection bias."""

    rate: float = 0.001

    def __post_init__(self) -> None:
        real_field(self, "rate", above=0)

    def check(self, shape: Shape) -> None:
        _check_experts(self, shape)
        if shape.experts is not None and not shape.experts.selection_bias:
            raise ValueError(f"balancing={self}: needs experts with selection_bias=True")

    def loss(self, routers: Sequence[Router], results: Sequence[RoutingResult]) -> Tensor | float:
        return 0.0

    @torch.no_grad()
    def adjust(self, routers: Sequence[Router], results: Sequence[RoutingResult]) -> None:
        for router, result in zip(routers, results, strict=True):
            assert router.bias_X is not None
            count_X = expert_counts(result).to(router.bias_X.dtype)
            router.bias_X += self.rate * (count_X.mean() - count_X).sign()


def _check_experts(balancing: Balancing, shape: Shape) -> None:
    if shape.experts is None:
        raise ValueError(f"balancing={balancing}: needs a model with experts")


def _layer_loss(router: Router, result: RoutingResult) -> Tensor:
    """X sum_x f_x p_x; only p has a gradient."""
    if router.routing.scoring is Scoring.SIGMOID:
        score_BFX = result.logits_BFX.sigmoid()
        share_BFX = score_BFX / score_BFX.sum(-1, keepdim=True)
    else:
        share_BFX = result.logits_BFX.softmax(-1)
    count_X = expert_counts(result).to(share_BFX.dtype)
    return len(count_X) * (count_X / count_X.sum()) @ share_BFX.mean((0, 1))
