"""Hierarchy: divide and conquer runs of masks, so that neighbours are not committed together (dInfer, 2510.08666)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from ...kernels.checks import real_field
from ...kernels.token_statistics import Statistic
from ..proposal import Proposal
from ..step_state import StepState
from .base import Edit, Policy
from .ranking import select_passing_first


@dataclass(frozen=True)
class Hierarchy(Policy):
    """Commit the most probable position of every contiguous run of masks if its probability is above `low` (all of
    those that tie, as published), and every position above `tau`, within the quota."""

    tau: float
    low: float = 0.4
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob"})
    needs_open_quota: ClassVar[bool] = True

    def __post_init__(self) -> None:
        real_field(self, "tau", above=0, at_most=1)
        real_field(self, "low", at_least=0, at_most=1)

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        log_prob_BQ, masked_BQ = proposal.log_prob_BQ, state.masked_BQ
        begins_BQ = masked_BQ & ~F.pad(masked_BQ, (1, 0))[:, :-1]
        run_BQ = begins_BQ.cumsum(1)
        score_BQ = log_prob_BQ.masked_fill(~masked_BQ, -torch.inf)
        best_BR = torch.full_like(F.pad(score_BQ, (1, 0)), -torch.inf).scatter_reduce(1, run_BQ, score_BQ, "amax")
        leads_BQ = score_BQ == best_BR.gather(1, run_BQ)
        probability_BQ = log_prob_BQ.exp()
        passing_BQ = (leads_BQ & (probability_BQ > self.low)) | (probability_BQ > self.tau)
        return select_passing_first(state, passing_BQ, log_prob_BQ)
