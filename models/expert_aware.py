"""A mixture-of-experts model that also says how much each position costs in experts.

    rarity of a position = mean over layers and its choices of 1 / (fed positions of its row that chose this expert too)

1: nobody shares its experts, and a forward without it reads that many fewer; near 0: it costs nothing more.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.batch_invariance import refuse_if_batch_invariant
from ..kernels.token_statistics import StatisticsRequest, TokenStatistics
from .adapter import DecodableTransformer, Plan
from .kv_store import KVStore
from .mixture import Routed
from .routers import RouterWatch, routers_of


@dataclass(frozen=True)
class ExpertAware(DecodableTransformer):
    """Answers "expert_rarity" beside the other statistics; a hidden state carries it as one column more. Of a dense
    model it is 0; a mixture's last layer, which may compute no more than what is asked of, does not count. ValueError
    of a model whose last layer is its only mixture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(routers_of(self.transformer)) == 1:
            raise ValueError("a model with experts in its last layer alone: needs another layer with experts, since "
                             "the last one may compute no more than what is asked of")

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        refuse_if_batch_invariant("an expert-aware model", "it asks which experts positions share")
        with RouterWatch(self.transformer) as watch:
            hidden_BQE = super().hidden(tokens_BS, plan, store)
        exists_BF = plan.feed_BF < tokens_BS.shape[1] - 1
        layers = [_rarity(routed, exists_BF) for (routed,) in watch.routed[:-1]]
        rarity_BF = torch.stack(layers).mean(0) if layers else hidden_BQE.new_zeros(plan.feed_BF.shape)
        index_BQ = plan.index(self.shift)
        rarity_BQ = rarity_BF if index_BQ is None else rarity_BF.gather(1, index_BQ)
        return torch.cat((hidden_BQE, rarity_BQ[:, : hidden_BQE.shape[1], None].to(hidden_BQE.dtype)), -1)

    def statistics(self, hidden_BQE: Tensor, request: StatisticsRequest) -> TokenStatistics:
        found = super().statistics(hidden_BQE[..., :-1], request)
        return replace(found, expert_rarity_BQ=hidden_BQE[..., -1].float())


def _rarity(routed: Routed, exists_BF: Tensor) -> Tensor:
    """Of one layer, [B, F]; 0 where there is no position."""
    chosen_BFX = F.one_hot(routed.expert_BFA.long(), routed.logits_BFX.shape[-1]).sum(2).clamp(max=1)
    chosen_BFX = chosen_BFX * exists_BF[..., None]
    sharing_BF = chosen_BFX / chosen_BFX.sum(1, keepdim=True).clamp(min=1)
    return sharing_BF.sum(-1) / chosen_BFX.sum(-1).clamp(min=1)
