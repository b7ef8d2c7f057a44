"""How many of a row's ranked positions to commit, each rule from one number, its limit.

With s_(r) the r-th best score of the row:

    top k           n = all, up to the quota
    threshold       n = #{r : s_(r) >= limit}                                       (Fast-dLLM, arXiv 2505.22618)
    factor          n = max{r : (r + 1) (1 - p_(r)) < limit},   p = e^s             (Fast-dLLM; s is a log-probability)
    entropy bound   n = max{r : sum_{i <= r} H_(i) - max_{i <= r} H_(i) <= limit}   (EB-Sampler, 2505.24857; s = -H)
    entropy sum     n = max{r : sum_{i <= r} H_(i) < limit}                         (JetEngine's stricter reading)

What holds for rank r holds for the ranks before it too (in the entropy bound the largest of a prefix is its last). So n
is a count of the ranks that pass, and each position can be tested alone. The factor is the paper's: its published code
lets equality pass, and commits all eligible positions where only the last of them fails.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor


def _count_all(sorted_BQ: Tensor, limit: float) -> Tensor:
    return torch.full(sorted_BQ.shape[:1], sorted_BQ.shape[1], dtype=torch.int64, device=sorted_BQ.device)


def _count_over_threshold(sorted_BQ: Tensor, limit: float) -> Tensor:
    return (sorted_BQ >= limit).sum(1)


def _count_within_factor(sorted_BQ: Tensor, limit: float) -> Tensor:
    rank_Q = torch.arange(1, sorted_BQ.shape[1] + 1, device=sorted_BQ.device)
    return ((rank_Q + 1) * (1 - sorted_BQ.exp()) < limit).sum(1)


def _count_within_entropy_bound(sorted_BQ: Tensor, limit: float) -> Tensor:
    before_BQ = F.pad(sorted_BQ, (1, 0))[:, :-1].cumsum(1)
    return (-before_BQ <= limit).sum(1)


def _count_within_entropy_sum(sorted_BQ: Tensor, limit: float) -> Tensor:
    return (-sorted_BQ.cumsum(1) < limit).sum(1)


@triton.jit
def _passes_always(score, before, rank, limit):
    return rank > 0


@triton.jit
def _passes_threshold(score, before, rank, limit):
    return score >= limit


@triton.jit
def _passes_factor(score, before, rank, limit):
    return (rank + 1) * (1 - tl.exp(score)) < limit


@triton.jit
def _passes_entropy_bound(score, before, rank, limit):
    return -before <= limit


@triton.jit
def _passes_entropy_sum(score, before, rank, limit):
    return -(before + score) < limit


class Rule(Enum):
    """A rule in PyTorch and in Triton. `count(sorted_BQ, limit)`: how many positions pass, int64 [B], of scores that
    fall along each row and end in -inf where nothing is eligible. `passes`: whether a position does, from its score,
    the sum of the scores ranked before it, its rank (from 1) and the limit."""

    TOP_K = (_count_all, _passes_always)
    THRESHOLD = (_count_over_threshold, _passes_threshold)
    FACTOR = (_count_within_factor, _passes_factor)
    ENTROPY_BOUND = (_count_within_entropy_bound, _passes_entropy_bound)
    ENTROPY_SUM = (_count_within_entropy_sum, _passes_entropy_sum)

    def __init__(self, count: Callable[[Tensor, float], Tensor], passes: Any) -> None:
        self.count = count
        self.passes = passes
