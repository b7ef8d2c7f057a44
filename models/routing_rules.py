"""What a decoder may ask of trained routers so that a forward reads fewer experts; training knows nothing of it.

    own choice         every position takes its own experts
    shared in a block  the fed positions of a row vote with their routers' probabilities, and all choose among the
                       `num_experts` winners (sharing within a block: arXiv 2602.00879; this vote is ours)
    fewer where sure   a position keeps its best experts until they have `share` of its weight (the top-p choice of
                       arXiv 2403.07652, here of a router that was trained without it)

A rule sees each row of a batch by itself; positions that only fill a ragged row are among those it sees. A choice that
is given up stands as the position's best expert with weight zero: shapes stay, and no other expert is read. It is still
multiplied, so that what a rule saves is bytes, not products.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..kernels.batch_invariance import refuse_if_batch_invariant
from ..kernels.checks import integer_field, real_field
from ..kernels.moe_router import Routing, Scoring

Choose = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From logits [..., X] to experts (int32) and weights (float32), each [..., top_k], best first."""


class RoutingRule(Protocol):
    def check(self, routing: Routing, num_experts: int) -> None:
        """ValueError if routers like this cannot keep the rule."""
        ...

    def route(self, logits_BFX: Tensor, choose: Choose, routing: Routing) -> tuple[Tensor, Tensor]:
        """The experts and weights of the fed positions, each [B, F, top_k]."""
        ...


@dataclass(frozen=True)
class OwnChoice:
    def check(self, routing: Routing, num_experts: int) -> None:
        pass

    def route(self, logits_BFX: Tensor, choose: Choose, routing: Routing) -> tuple[Tensor, Tensor]:
        return choose(logits_BFX)


@dataclass(frozen=True)
class SharedInBlock:
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
            # Of the whole softmax, not of the winners'.
            weight_BFA = weight_BFA * share_BFX.masked_fill(losing_BX[:, None], 0).sum(-1, keepdim=True)
        # Groups of experts may hold fewer winners than are chosen.
        return _without(expert_BFA, weight_BFA, logits_BFX.gather(-1, expert_BFA.long()) == -torch.inf)


@dataclass(frozen=True)
class FewerWhereSure:
    share: float

    def __post_init__(self) -> None:
        real_field(self, "share", above=0, at_most=1)

    def check(self, routing: Routing, num_experts: int) -> None:
        pass

    def route(self, logits_BFX: Tensor, choose: Choose, routing: Routing) -> tuple[Tensor, Tensor]:
        expert_BFA, weight_BFA = choose(logits_BFX)
        total_BF1 = weight_BFA.sum(-1, keepdim=True)
        before_BFA = weight_BFA.cumsum(-1) - weight_BFA
        expert_BFA, kept_BFA = _without(expert_BFA, weight_BFA, before_BFA >= self.share * total_BF1)
        # The kept experts speak for those given up.
        least = torch.finfo(kept_BFA.dtype).tiny
        return expert_BFA, kept_BFA * (total_BF1 / kept_BFA.sum(-1, keepdim=True).clamp(min=least))


def _without(expert_BFA: Tensor, weight_BFA: Tensor, given_up_BFA: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(given_up_BFA, expert_BFA[..., :1], expert_BFA), weight_BFA.masked_fill(given_up_BFA, 0.0)
