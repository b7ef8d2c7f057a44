"""KLASS: commit probable tokens whose distribution is stable (KL-guided fast inference, arXiv 2511.05664)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...kernels.checks import integer_field, real_field
from ...kernels.token_statistics import Statistic
from ..proposal import Proposal
from ..step_state import StepState
from .base import Edit, Policy
from .ranking import select_passing_first


@dataclass(frozen=True)
class Klass(Policy):
    """Commit every position whose proposed token has a probability above `tau` and whose distribution diverged from
    that of the previous step by less than `epsilon` nats in each of the last `history` steps, within the quota: where
    fewer are ready than its minimum, the most probable others too (published: only where none is).

    A window starts without history, so nothing is stable in its first `history` steps; the published code keeps the
    history, and has one such step fewer in all windows but the first."""

    tau: float
    epsilon: float
    history: int = 2
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob", "divergence"})
    needs_open_quota: ClassVar[bool] = True

    def __post_init__(self) -> None:
        real_field(self, "tau", above=0, at_most=1)
        real_field(self, "epsilon", above=0)
        integer_field(self, "history")

    def begin(self, query_BQ: Tensor) -> Tensor:
        """Number of steps for which each position has been stable."""
        return torch.zeros_like(query_BQ)

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        log_prob_BQ = proposal.log_prob_BQ
        assert state.memory is not None
        stable_BQ = torch.where(proposal.divergence_BQ < self.epsilon, state.memory + 1, 0)
        ready_BQ = (stable_BQ >= self.history) & (log_prob_BQ.exp() > self.tau)
        return Edit(select_passing_first(state, ready_BQ, log_prob_BQ).commit_BQ, memory=stable_BQ)
