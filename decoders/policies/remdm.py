"""ReMDM: committed tokens are remasked at random, so that errors can be corrected (arXiv 2503.00307).

With alpha = 1 - time, before (t) and after (s) the step, and a rate sigma of at most (1 - alpha_s) / alpha_t:

    a committed token is remasked with probability sigma
    a masked one is committed with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)

after which a position is masked with probability 1 - alpha_s for any sigma. The published sampler stops just before
time 0 and fills the masks left with the most probable tokens of one more forward; here the last step commits them.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ...kernels.checks import real_field
from ...kernels.counter_rng import uniform
from ...kernels.token_statistics import Statistic
from ..proposal import Proposal
from ..step_state import StepState
from .base import Edit, Policy


class Rate(Protocol):
    def sigma(self, largest_B1: Tensor, state: StepState) -> Tensor:
        """The probability of remasking, [B, 1] or [B, Q], given the largest one allowed."""
        ...


@dataclass(frozen=True)
class Capped:
    """sigma = min(eta, largest)."""

    eta: float

    def __post_init__(self) -> None:
        real_field(self, "eta", at_least=0, at_most=1)

    def sigma(self, largest_B1: Tensor, state: StepState) -> Tensor:
        return largest_B1.clamp(max=self.eta)


@dataclass(frozen=True)
class Rescaled:
    """sigma = eta largest."""

    eta: float

    def __post_init__(self) -> None:
        real_field(self, "eta", at_least=0, at_most=1)

    def sigma(self, largest_B1: Tensor, state: StepState) -> Tensor:
        return self.eta * largest_B1


@dataclass(frozen=True)
class ByConfidence:
    """sigma = largest softmax(-probability at its commit), over the row's committed positions. Masked positions have no
    rate, as published, so fewer are committed than the marginals require."""

    def sigma(self, largest_B1: Tensor, state: StepState) -> Tensor:
        doubt_BQ = -state.commit_log_prob_BQ.exp()
        weight_BQ = doubt_BQ.masked_fill(~state.revisable_BQ, -torch.inf).softmax(1)
        return largest_B1 * weight_BQ.nan_to_num(0)


@dataclass(frozen=True)
class Remdm(Policy):
    """Remask committed positions at `rate`, and commit as many more. Ends when its time does."""

    rate: Rate
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob"})
    needs_free_quota: ClassVar[bool] = True
    needs_times: ClassVar[bool] = True
    revises: ClassVar[bool] = True

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        alpha_B1, next_alpha_B1 = (1 - time_B[:, None] for time_B in state.times)
        largest_B1 = ((1 - next_alpha_B1) / alpha_B1).clamp(max=1)  # 1 where alpha is 0
        return remasking(state, alpha_B1, next_alpha_B1, self.rate.sigma(largest_B1, state))


def remasking(state: StepState, alpha_B1: Tensor, next_alpha_B1: Tensor, sigma: Tensor) -> Edit:
    """One step of the process, with one uniform draw per position; sigma is [B, 1] or [B, Q]. When the time ends,
    everything is committed and nothing remasked."""
    unfinished_B = state.times.after > 0
    u_BQ = uniform(state.seed_B, state.query_BQ, state.step_B)
    commit_BQ = (u_BQ < (next_alpha_B1 - (1 - sigma) * alpha_B1) / (1 - alpha_B1)) | ~unfinished_B[:, None]
    remask_BQ = (u_BQ < sigma) & unfinished_B[:, None]
    return Edit(state.masked_BQ & commit_BQ, state.revisable_BQ & remask_BQ, unfinished_B)
