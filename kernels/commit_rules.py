"""How many of a row's ranked positions to commit, each rule from one number.

With s_(r) the r-th best score of the row:

    top k           n = all, up to the quota
    threshold       n = #{r : s_(r) >= minimum}                                     (Fast-dLLM, arXiv 2505.22618)
    factor          n = max{r : (r + 1) (1 - p_(r)) < factor},   p = e^s            (Fast-dLLM; s is a log-probability)
    entropy bound   n = max{r : sum_{i <= r} H_(i) - max_{i <= r} H_(i) <= gamma}   (EB-Sampler, 2505.24857; s = -H)
    entropy sum     n = max{r : sum_{i <= r} H_(i) < gamma}                         (JetEngine's stricter reading)

What is asked of rank r holds for the ranks before it too (in the entropy bound the largest of a prefix is its last), so
n is a count of the ranks that pass, and a position can be asked alone.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .checks import real_field


class Rule(Protocol):
    """How many of the ranked positions to commit, in PyTorch and in Triton, from one number."""

    program: ClassVar[Any]
    """Triton: whether a position passes, from its score, the sum of the scores ranked before it, its rank (from 1) and
    the limit."""

    @property
    def limit(self) -> float: ...

    @staticmethod
    def count(sorted_BQ: Tensor, limit: float) -> Tensor:
        """How many pass, int64 [B], of scores that fall along each row and end in -inf where nothing is eligible."""
        ...


def _rank(sorted_BQ: Tensor) -> Tensor:
    return torch.arange(1, sorted_BQ.shape[1] + 1, device=sorted_BQ.device)


@triton.jit
def _always(score, before, rank, limit):
    return rank > 0


@triton.jit
def _over_threshold(score, before, rank, limit):
    return score >= limit


@triton.jit
def _within_factor(score, before, rank, limit):
    return (rank + 1) * (1 - tl.exp(score)) < limit


@triton.jit
def _within_entropy_bound(score, before, rank, limit):
    return -before <= limit


@triton.jit
def _within_entropy_sum(score, before, rank, limit):
    return -(before + score) < limit


@dataclass(frozen=True)
class TopK:
    """As many as the quota allows."""

    program: ClassVar[Any] = _always

    @property
    def limit(self) -> float:
        return 0.0

    @staticmethod
    def count(sorted_BQ: Tensor, limit: float) -> Tensor:
        return torch.full(sorted_BQ.shape[:1], sorted_BQ.shape[1], dtype=torch.int64, device=sorted_BQ.device)


@dataclass(frozen=True)
class Threshold:
    """Every position whose score is at least `minimum`."""

    minimum: float
    program: ClassVar[Any] = _over_threshold

    def __post_init__(self) -> None:
        real_field(self, "minimum")

    @property
    def limit(self) -> float:
        return self.minimum

    @staticmethod
    def count(sorted_BQ: Tensor, limit: float) -> Tensor:
        return (sorted_BQ >= limit).sum(1)


@dataclass(frozen=True)
class Factor:
    """The more positions, the surer each must be: n + 1 of them times the doubt of the least sure stays below `factor`.
    Scores are log-probabilities.

    This is the paper's rule. Its published code lets equality pass, and commits all eligible positions where only the
    last of them fails."""

    factor: float
    program: ClassVar[Any] = _within_factor

    def __post_init__(self) -> None:
        real_field(self, "factor", above=0)

    @property
    def limit(self) -> float:
        return self.factor

    @staticmethod
    def count(sorted_BQ: Tensor, limit: float) -> Tensor:
        return ((_rank(sorted_BQ) + 1) * (1 - sorted_BQ.exp()) < limit).sum(1)


@dataclass(frozen=True)
class EntropyBound:
    """The entropies of all but the most uncertain sum to at most `gamma` nats, which bounds what is lost by drawing the
    positions independently. Scores are minus entropies."""

    gamma: float
    program: ClassVar[Any] = _within_entropy_bound

    def __post_init__(self) -> None:
        real_field(self, "gamma", at_least=0)

    @property
    def limit(self) -> float:
        return self.gamma

    @staticmethod
    def count(sorted_BQ: Tensor, limit: float) -> Tensor:
        before_BQ = F.pad(sorted_BQ, (1, 0))[:, :-1].cumsum(1)
        return (-before_BQ <= limit).sum(1)


@dataclass(frozen=True)
class EntropySum:
    """The entropies sum to less than `gamma` nats. Scores are minus entropies."""

    gamma: float
    program: ClassVar[Any] = _within_entropy_sum

    def __post_init__(self) -> None:
        real_field(self, "gamma", above=0)

    @property
    def limit(self) -> float:
        return self.gamma

    @staticmethod
    def count(sorted_BQ: Tensor, limit: float) -> Tensor:
        return (-sorted_BQ.cumsum(1) < limit).sum(1)


RULES: tuple[type[Rule], ...] = (TopK, Threshold, Factor, EntropyBound, EntropySum)
