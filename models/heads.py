"""Where a model's output head meets the question asked of its logits: two products, fixed for a run by the model.

    separate   logits = h W^T by the library, then their statistics; the logits are written and read
    fused      both in one kernel; logits are never written, weights are read once

Which is faster depends on the GPU and the number of rows; which runs must not depend on the batch of the moment.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.lm_head_statistics import lm_head_statistics
from ..kernels.token_statistics import Question, TokenStatistics, token_statistics


class Head(Protocol):
    holds_logits: ClassVar[bool]
    """Whether all logits of a position exist at once, as some questions need."""

    def statistics(self, hidden_BQE: Tensor, weight_VE: Tensor, banned_id: int, question: Question) -> TokenStatistics:
        """The answer about the logits of hidden states, in which the banned token has none."""
        ...


@dataclass(frozen=True)
class SeparateHead:
    holds_logits: ClassVar[bool] = True

    def statistics(self, hidden_BQE: Tensor, weight_VE: Tensor, banned_id: int, question: Question) -> TokenStatistics:
        logits_BQV = F.linear(hidden_BQE, weight_VE)
        logits_BQV[..., banned_id] = -torch.inf
        return token_statistics(logits_BQV, question)


@dataclass(frozen=True)
class FusedHead:
    """ValueError from `statistics` where the question needs all logits (top_k, top_p, divergence, credit)."""

    holds_logits: ClassVar[bool] = False

    def statistics(self, hidden_BQE: Tensor, weight_VE: Tensor, banned_id: int, question: Question) -> TokenStatistics:
        return lm_head_statistics(hidden_BQE, weight_VE, banned_id, question)
