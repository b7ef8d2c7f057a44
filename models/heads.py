"""A model's output head and the statistics of its logits: two products, fixed for a run by the model.

    separate   logits = h W^T by the library, then their statistics; logits are written to memory and read back
    fused      both in one kernel; logits are never written, weights are read once

Which is faster depends on the GPU and the number of rows. The choice must not depend on the current batch.
"""

from dataclasses import dataclass, is_dataclass, replace
from itertools import product
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ..kernels.batch_invariance import check_device
from ..kernels.lm_head_statistics import lm_head_statistics
from ..kernels.token_statistics import StatisticsRequest, TokenStatistics, token_statistics
from .linear import CappedLinear, Linear


class Head(Protocol):
    materializes_logits: ClassVar[bool]
    """Whether all logits of a position exist at once, as some statistics need."""

    def statistics(self, hidden_BQE: Tensor, lm_head: Linear, banned_id: int | None, request: StatisticsRequest
                   ) -> TokenStatistics:
        """The statistics of the logits of hidden states, in which the banned token, if any, has none."""
        ...


def _logits(hidden_BQE: Tensor, lm_head: Linear) -> Tensor:
    """Logits in float32, as the fused head computes them, where the library can: cuBLAS. On AMD and on a CPU, logits of
    16-bit states are rounded to 16 bits (to multiples of 1/8 in bfloat16 between 16 and 32)."""
    if hidden_BQE.is_cuda and hidden_BQE.dtype in (torch.float16, torch.bfloat16) and torch.version.hip is None:
        logits_TV = torch.mm(hidden_BQE.flatten(0, 1), lm_head.weight.T, out_dtype=torch.float32)
        logits_BQV = logits_TV.view(*hidden_BQE.shape[:2], -1)
        return lm_head.capped(logits_BQV) if isinstance(lm_head, CappedLinear) else logits_BQV
    return lm_head(hidden_BQE)


def statistics_by_position(head: Head, hidden_BQE: Tensor, lm_head: Linear, banned_id: int | None,
                           request: StatisticsRequest) -> TokenStatistics:
    """The head's statistics of each position by itself."""
    check_device(hidden_BQE.device)
    places = list(product(range(hidden_BQE.shape[0]), range(hidden_BQE.shape[1])))
    if not places:
        return head.statistics(hidden_BQE, lm_head, banned_id, request)
    found = [head.statistics(hidden_BQE[row : row + 1, place : place + 1].clone(), lm_head, banned_id,
                             _at(request, row, place)) for row, place in places]
    return TokenStatistics(**{name: torch.cat([getattr(one, name) for one in found]).view(hidden_BQE.shape[:2])
                              for name, value in vars(found[0]).items() if value is not None})


def _at(part: Any, row: int, place: int) -> Any:
    """The part of a request that concerns one position; its tensors are named by their dimensions. State is shared."""
    named = {}
    for name, value in vars(part).items():
        dimensions = name.rpartition("_")[2]
        if isinstance(value, Tensor) and value.ndim and dimensions.startswith("B"):
            value = value[row : row + 1]
            named[name] = value[:, place : place + 1] if dimensions.startswith("BQ") else value
        elif is_dataclass(value):
            named[name] = _at(value, row, place)
    return replace(part, **named)


@dataclass(frozen=True)
class SeparateHead:
    materializes_logits: ClassVar[bool] = True

    def statistics(self, hidden_BQE: Tensor, lm_head: Linear, banned_id: int | None, request: StatisticsRequest
                   ) -> TokenStatistics:
        logits_BQV = _logits(hidden_BQE, lm_head)
        if banned_id is not None:
            logits_BQV[..., banned_id] = -torch.inf
        return token_statistics(logits_BQV, request)


@dataclass(frozen=True)
class FusedHead:
    """ValueError from `statistics` where the request needs all logits (top_k, top_p, divergence, credit), and where
    logits are capped."""

    materializes_logits: ClassVar[bool] = False

    def statistics(self, hidden_BQE: Tensor, lm_head: Linear, banned_id: int | None, request: StatisticsRequest
                   ) -> TokenStatistics:
        if isinstance(lm_head, CappedLinear):
            raise ValueError(f"head=fused with logits capped at {lm_head.cap:g}: must be separate")
        return lm_head_statistics(hidden_BQE, lm_head.weight, banned_id, request)
