"""Relative threshold: commit tokens that are probable enough or nearly tie with the best (dInfer, arXiv 2510.08666)."""

from dataclasses import dataclass
from typing import ClassVar

from ...kernels.checks import real_field
from ...kernels.token_statistics import Statistic
from ..proposal import Proposal
from ..step_state import StepState
from .base import Edit, Policy
from .ranking import select_passing_first


@dataclass(frozen=True)
class RelativeThreshold(Policy):
    """Commit every position whose proposed token has a probability of at least min(tau, largest - slack), where the
    largest is over the row's masked positions: all near-ties with it pass, even if none reaches tau."""

    tau: float
    slack: float = 1e-5
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob"})
    needs_open_quota: ClassVar[bool] = True

    def __post_init__(self) -> None:
        real_field(self, "tau", above=0, at_most=1)
        real_field(self, "slack", at_least=0, at_most=1)

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        probability_BQ = proposal.log_prob_BQ.exp()
        largest_B1 = probability_BQ.masked_fill(~state.masked_BQ, 0).amax(1, keepdim=True)
        passing_BQ = probability_BQ >= (largest_B1 - self.slack).clamp(max=self.tau)
        return select_passing_first(state, passing_BQ, proposal.log_prob_BQ)
