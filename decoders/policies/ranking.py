"""Choosing the best k of the eligible positions, with ties going to the lowest position."""

import torch
from torch import Tensor


def best(score_BQ: Tensor, eligible_BQ: Tensor, count_B: Tensor) -> Tensor:
    """Which positions are among the row's `count_B` eligible ones of highest score: bool [B, Q].

    score_BQ is float, eligible_BQ bool, count_B int64."""
    # Eligible positions stay above the others even where their score is -inf.
    score_BQ = score_BQ.clamp(min=torch.finfo(score_BQ.dtype).min).masked_fill(~eligible_BQ, -torch.inf)
    order_BQ = score_BQ.argsort(dim=1, descending=True, stable=True)
    rank_Q = torch.arange(score_BQ.shape[1], device=score_BQ.device).expand_as(order_BQ)
    rank_BQ = torch.empty_like(order_BQ).scatter_(1, order_BQ, rank_Q)
    return (rank_BQ < count_B[:, None]) & eligible_BQ
