"""How a mixture's experts are kept equally busy in training.

    auxiliary loss    c X sum_x f_x p_x, f_x the share of assignments that expert x got, p_x its mean share of scores
                      (Switch, arXiv 2101.03961; over top_k as in GShard, 2006.16668, and OLMoE, 2409.02060)
    loss-free         b_x += u sign(mean load - load of x): the bias for the choice alone, no gradient
                      (Wang et al., arXiv 2408.15664; DeepSeek-V3, 2412.19437)

No expert has a capacity, and no position is ever dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..kernels.checks import real_field
from ..kernels.moe_router import Scoring
from .config import Shape
from .mixture import Routed, Router
from .routers import load


class Balancing(Protocol):
    def check(self, shape: Shape) -> None:
        """ValueError if a model of this shape cannot be balanced like this."""
        ...

    def loss(self, routers: Sequence[Router], routed: Sequence[Routed]) -> Tensor | float:
        """What is added to the objective of an update, given where its positions went in each layer: a scalar."""
        ...

    def adjust(self, routers: Sequence[Router], routed: Sequence[Routed]) -> None:
        """Change the routers after the update."""
        ...


@dataclass(frozen=True)
class Unbalanced:
    """Leaves the load to the objective alone; of dense models too."""

    def check(self, shape: Shape) -> None:
        pass

    def loss(self, routers: Sequence[Router], routed: Sequence[Routed]) -> Tensor | float:
        return 0.0

    def adjust(self, routers: Sequence[Router], routed: Sequence[Routed]) -> None:
        pass


@dataclass(frozen=True)
class AuxiliaryLoss:
    """`coefficient` times the mean over layers, which is 1 where all experts are equally busy and likely."""

    coefficient: float = 0.01

    def __post_init__(self) -> None:
        real_field(self, "coefficient", above=0)

    def check(self, shape: Shape) -> None:
        _check_experts(self, shape)

    def loss(self, routers: Sequence[Router], routed: Sequence[Routed]) -> Tensor | float:
        layers = [_imbalance(router, there) for router, there in zip(routers, routed, strict=True)]
        return self.coefficient * torch.stack(layers).mean()

    def adjust(self, routers: Sequence[Router], routed: Sequence[Routed]) -> None:
        pass


@dataclass(frozen=True)
class LossFree:
    """Moves every expert's bias by `rate` against its load; the routers must have one."""

    rate: float = 0.001

    def __post_init__(self) -> None:
        real_field(self, "rate", above=0)

    def check(self, shape: Shape) -> None:
        _check_experts(self, shape)
        if shape.experts is not None and not shape.experts.selection_bias:
            raise ValueError(f"balancing={self}: needs experts with selection_bias=True")

    def loss(self, routers: Sequence[Router], routed: Sequence[Routed]) -> Tensor | float:
        return 0.0

    @torch.no_grad()
    def adjust(self, routers: Sequence[Router], routed: Sequence[Routed]) -> None:
        for router, there in zip(routers, routed, strict=True):
            assert router.bias_X is not None
            load_X = load(there).to(router.bias_X.dtype)
            router.bias_X += self.rate * (load_X.mean() - load_X).sign()


def _check_experts(balancing: Balancing, shape: Shape) -> None:
    if shape.experts is None:
        raise ValueError(f"balancing={balancing}: needs a model with experts")


def _imbalance(router: Router, routed: Routed) -> Tensor:
    """X sum_x f_x p_x; only p has a gradient."""
    if router.routing.scoring is Scoring.SIGMOID:
        score_BFX = routed.logits_BFX.sigmoid()
        share_BFX = score_BFX / score_BFX.sum(-1, keepdim=True)
    else:
        share_BFX = routed.logits_BFX.softmax(-1)
    load_X = load(routed).to(share_BFX.dtype)
    return len(load_X) * (load_X / load_X.sum()) @ share_BFX.mean((0, 1))
