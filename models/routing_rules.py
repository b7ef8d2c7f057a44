"""Routing rules: how a decoder may change a trained router's choice so that a forward reads fewer experts.

    TokenChoice          every position takes its own top-k experts, as in training
    BlockSharedExperts   the fed positions of a row vote with their router probabilities; all choose among the
                         `num_experts` winners (sharing within a block: arXiv 2602.00879; this vote is ours)
    TopPExperts          a position keeps its best experts until they hold `share` of its routing weight
                         (top-p routing, arXiv 2403.07652, here of a router trained with top-k)

A rule treats each row of a batch by itself. Padding positions of a ragged row are included. A dropped slot keeps the
top-1 expert with weight 0: shapes stay static and no extra expert is read. Its product is still computed, so a rule
saves bytes, not FLOPs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ..kernels.batch_invariance import refuse_if_batch_invariant
from ..kernels.checks import integer_field, real_field
from ..kernels.moe_router import Routing, Scoring

Choose = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From logits [..., X] to experts (int32) and weights (float32), each [..., top_k], best first."""


class RoutingRule(Protocol):
    couples_positions: ClassVar[bool]
    """Whether the fed positions of a row choose together."""

    def check(self, routing: Routing, num_experts: int) -> None:
        """ValueError if the rule cannot be applied to routers like this."""
        ...

    def route(self, logits_BFX: Tensor, choose: Choose, routing: Routing) -> tuple[Tensor, Tensor]:
        """The experts (int32) and weights (float32) of the fed positions, each [B, F, top_k]."""
        ...


@dataclass(frozen=True)
class TokenChoice:
    kind: ClassVar[str] = "OwnChoice"
    couples_positions: ClassVar[bool] = False

    def check(self, routing: Routing, num_experts: int) -> None:
        pass

    def route(self, logits_BFX: Tensor, choose: Choose, routing: Routing) -> tuple[Tensor, Tensor]:
        return choose(logits_BFX)


@dataclass(frozen=True)
class BlockSharedExperts:
    kind: ClassVar[str] = "SharedInBlock"
    couples_positions: ClassVar[bool] = True
    num_experts: int

    def __post_init__(self) -> None:
        integer_field(self, "num_experts")

    def check(self, routing: Routing, num_experts: int) -> None:
        if not routing.top_k <= self.num_experts <= num_experts:
            raise ValueError(f"num_experts={self.num_experts}: must be from top_k={routing.top_k} to the "
                             f"{num_experts} experts there are")
        if routing.by_pairs and routing.groups_kept < routing.num_groups and self.num_experts <= routing.num_groups:
            raise ValueError(f"num_experts={self.num_experts}: must be more than num_groups={routing.num_groups}, so "
                             "that some group has the two by which it is ranked")

    def route(self, logits_BFX: Tensor, choose: Choose, routing: Routing) -> tuple[Tensor, Tensor]:
        refuse_if_batch_invariant(f"router rule {self}", "the positions of a row choose together")
        share_BFX = logits_BFX.softmax(-1)
        votes_BX = share_BFX.sum(1)
        losing_BX = torch.ones_like(votes_BX, dtype=torch.bool).scatter(
            1, votes_BX.topk(self.num_experts).indices, False)
        logits_BFX = logits_BFX.masked_fill(losing_BX[:, None], -torch.inf)
        expert_BFA, weight_BFA = choose(logits_BFX)
        if routing.scoring is Scoring.SOFTMAX and not routing.renormalise:
            # Weights are shares of the softmax over all experts, not over the winners.
            weight_BFA = weight_BFA * share_BFX.masked_fill(losing_BX[:, None], 0).sum(-1, keepdim=True)
        # The kept expert groups may hold fewer winners than top_k.
        return _drop(expert_BFA, weight_BFA, logits_BFX.gather(-1, expert_BFA.long()) == -torch.inf)


@dataclass(frozen=True)
class TopPExperts:
    kind: ClassVar[str] = "FewerWhereSure"
    couples_positions: ClassVar[bool] = False
    share: float

    def __post_init__(self) -> None:
        real_field(self, "share", above=0, at_most=1)

    def check(self, routing: Routing, num_experts: int) -> None:
        pass

    def route(self, logits_BFX: Tensor, choose: Choose, routing: Routing) -> tuple[Tensor, Tensor]:
        expert_BFA, weight_BFA = choose(logits_BFX)
        total_BF1 = weight_BFA.sum(-1, keepdim=True)
        before_BFA = weight_BFA.cumsum(-1) - weight_BFA
        expert_BFA, kept_BFA = _drop(expert_BFA, weight_BFA, before_BFA >= self.share * total_BF1)
        # Renormalise: the kept experts take over the weight of the dropped ones.
        least = torch.finfo(kept_BFA.dtype).tiny
        return expert_BFA, kept_BFA * (total_BF1 / kept_BFA.sum(-1, keepdim=True).clamp(min=least))


def _drop(expert_BFA: Tensor, weight_BFA: Tensor, dropped_BFA: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(dropped_BFA, expert_BFA[..., :1], expert_BFA), weight_BFA.masked_fill(dropped_BFA, 0.0)
