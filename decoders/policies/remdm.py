"""ReMDM: decided tokens return to mask at random, so that mistakes can be mended (arXiv 2503.00307).

With alpha = 1 - time, before (t) and after (s) the step, and a rate sigma of at most (1 - alpha_s) / alpha_t:

    a decided token returns to mask with probability sigma
    a masked one is decided with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)

after which a position is masked with probability 1 - alpha_s, whatever sigma. The published sampler stops just before
time 0 and fills what is left with the most probable tokens of one more forward; here the last step decides it.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ...kernels.checks import real_field
from ...kernels.counter_rng import uniform
from ...kernels.token_statistics import Statistic
from .base import Edit, Policy, Situation


class Rate(Protocol):
    def sigma(self, largest: Tensor, situation: Situation) -> Tensor:
        """The probability of returning to mask, given the largest one allowed ([B, 1] or [1]): of shape [B, Q] or that
        of `largest`."""
        ...


@dataclass(frozen=True)
class Capped:
    """sigma = min(eta, largest)."""

    eta: float

    def __post_init__(self) -> None:
        real_field(self, "eta", at_least=0, at_most=1)

    def sigma(self, largest: Tensor, situation: Situation) -> Tensor:
        return largest.clamp(max=self.eta)


@dataclass(frozen=True)
class Rescaled:
    """sigma = eta largest."""

    eta: float

    def __post_init__(self) -> None:
        real_field(self, "eta", at_least=0, at_most=1)

    def sigma(self, largest: Tensor, situation: Situation) -> Tensor:
        return self.eta * largest


@dataclass(frozen=True)
class ByConfidence:
    """sigma = largest softmax(-probability at its commit), over the row's decided positions. Masked positions have no
    rate, as published, so fewer are decided than the marginals ask for."""

    def sigma(self, largest: Tensor, situation: Situation) -> Tensor:
        assert situation.revisable_BQ is not None
        doubt_BQ = -situation.canvas.log_prob_BS.gather(1, situation.query_BQ).exp()
        weight_BQ = doubt_BQ.masked_fill(~situation.revisable_BQ, -torch.inf).softmax(1)
        return largest * weight_BQ.nan_to_num(0)


@dataclass(frozen=True)
class Remdm(Policy):
    """Return decided positions to mask at `rate`, and decide as many more. Ends when its time does."""

    rate: Rate
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob"})
    needs_free_quota: ClassVar[bool] = True
    needs_times: ClassVar[bool] = True
    revises: ClassVar[bool] = True

    def select(self, situation: Situation) -> Edit:
        assert situation.times is not None
        alpha, next_alpha = (1 - time[..., None] for time in situation.times)
        largest = ((1 - next_alpha) / alpha).clamp(max=1)  # 1 where alpha is 0
        return remasking(situation, alpha, next_alpha, self.rate.sigma(largest, situation))


def remasking(situation: Situation, alpha: Tensor, next_alpha: Tensor, sigma: Tensor) -> Edit:
    """One step of the process, with one uniform a position: sigma and both alphas broadcast with [B, Q]. Where the time
    ends, everything is decided and nothing returns to mask."""
    assert situation.times is not None
    assert situation.revisable_BQ is not None
    goes_on = situation.times.after > 0
    u_BQ = uniform(situation.canvas.seed_B, situation.query_BQ, situation.step)
    commit_BQ = (u_BQ < (next_alpha - (1 - sigma) * alpha) / (1 - alpha)) | ~goes_on[..., None]
    remask_BQ = (u_BQ < sigma) & goes_on[..., None]
    return Edit(situation.eligible_BQ & commit_BQ, situation.revisable_BQ & remask_BQ, goes_on.expand(len(u_BQ)))
