"""A mixture-of-experts model that also says how much each position costs in experts.

    rarity of a position = mean over its layers and choices of 1 / (fed positions of its row that chose this expert too)

1: nobody shares its experts, and a forward without it reads that many fewer; near 0: it costs nothing more.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.token_statistics import Question, TokenStatistics
from .adapter import DecodableTransformer, Plan
from .kv_store import KVStore
from .mixture import Routed
from .routers import RouterWatch


@dataclass(frozen=True)
class ExpertAware(DecodableTransformer):
    """Answers "expert_rarity" beside the other statistics; a hidden state carries it as one column more. Positions that
    only fill a ragged row count as fed. Of a dense model it is 0."""

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        with RouterWatch(self.transformer) as watch:
            hidden_BQE = super().hidden(tokens_BS, plan, store)
        index_BQ = plan.index(self.shift)
        # The last layer computes no more than what is asked of; the others say enough.
        whole = watch.routed if index_BQ is None else watch.routed[:-1]
        layers = [_rarity(routed) for (routed,) in whole]
        rarity_BF = torch.stack(layers).mean(0) if layers else hidden_BQE.new_zeros(plan.feed_BF.shape)
        rarity_BQ = rarity_BF if index_BQ is None else rarity_BF.gather(1, index_BQ)
        return torch.cat((hidden_BQE, rarity_BQ[:, : hidden_BQE.shape[1], None].to(hidden_BQE.dtype)), -1)

    def statistics(self, hidden_BQE: Tensor, question: Question) -> TokenStatistics:
        found = super().statistics(hidden_BQE[..., :-1], question)
        return replace(found, expert_rarity_BQ=hidden_BQE[..., -1].float())


def _rarity(routed: Routed) -> Tensor:
    """Of one layer, [B, F]."""
    chosen_BFX = F.one_hot(routed.expert_BFA.long(), routed.logits_BFX.shape[-1]).sum(2).clamp(max=1)
    sharing_BF = chosen_BFX / chosen_BFX.sum(1, keepdim=True).clamp(min=1)
    return sharing_BF.sum(-1) / chosen_BFX.sum(-1)
