"""A mixture-of-experts model that also reports how many experts each position needs for itself.

    rarity of a position = mean over layers and its experts of 1 / (fed positions of its row that use this expert too)

1: no other position uses its experts, and a forward without it reads that many fewer. Near 0: it adds no expert.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels.batch_invariance import refuse_if_batch_invariant
from ...kernels.token_statistics import StatisticsRequest, TokenStatistics
from ...models import DecodableTransformer, KVStore, Plan, RouterRecorder, RoutingResult
from ...models.routers import routers_of


@dataclass(frozen=True)
class RarityStatistics(TokenStatistics):
    """Token statistics and the rarity of each queried position, float32 [B, Q], from 0 to 1."""

    expert_rarity_BQ: Tensor = field(kw_only=True)


@dataclass(frozen=True)
class ExpertAware(DecodableTransformer):
    """Its statistics are RarityStatistics; hidden states carry the rarity, 0 for a dense model, as one more column. The
    last layer does not count: it may run at the queried positions only. ValueError if that is the only MoE layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(routers_of(self.transformer)) == 1:
            raise ValueError("a model with experts in its last layer only: needs another layer with experts, since "
                             "the last one may run at the queried positions only")

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        refuse_if_batch_invariant("an expert-aware model", "it asks which experts positions share")
        with RouterRecorder(self.transformer) as recorder:
            hidden_BQE = super().hidden(tokens_BS, plan, store)
        exists_BF = plan.feed_BF < tokens_BS.shape[1] - 1
        layers = [_rarity(result, exists_BF) for (result,) in recorder.results[:-1]]
        rarity_BF = torch.stack(layers).mean(0) if layers else hidden_BQE.new_zeros(plan.feed_BF.shape)
        index_BQ = plan.index(self.shift)
        rarity_BQ = rarity_BF if index_BQ is None else rarity_BF.gather(1, index_BQ)
        return torch.cat((hidden_BQE, rarity_BQ[:, : hidden_BQE.shape[1], None].to(hidden_BQE.dtype)), -1)

    def statistics(self, hidden_BQE: Tensor, request: StatisticsRequest) -> RarityStatistics:
        found = super().statistics(hidden_BQE[..., :-1], request)
        return RarityStatistics(**vars(found), expert_rarity_BQ=hidden_BQE[..., -1].float())


def _rarity(result: RoutingResult, exists_BF: Tensor) -> Tensor:
    """The rarity in one layer, [B, F]; 0 where there is no position."""
    used_BFX = F.one_hot(result.expert_BFA.long(), result.logits_BFX.shape[-1]).sum(2).clamp(max=1)
    used_BFX = used_BFX * exists_BF[..., None]
    sharing_BF = used_BFX / used_BFX.sum(1, keepdim=True).clamp(min=1)
    return sharing_BF.sum(-1) / used_BFX.sum(-1).clamp(min=1)
