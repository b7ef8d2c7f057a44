"""Threshold: commit every token that is probable enough (Fast-dLLM, arXiv 2505.22618)."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...kernels.checks import real_field
from ...kernels.commit_rules import Rule
from ...kernels.token_statistics import Statistic
from ..proposal import Proposal
from ..step_state import StepState
from .base import Edit, Policy
from .ranking import select_top


@dataclass(frozen=True)
class Threshold(Policy):
    """Commit every position whose proposed token has a probability of at least `tau`, within the quota: the most
    probable first where fewer pass than its minimum or more than its maximum."""

    tau: float
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob"})
    needs_open_quota: ClassVar[bool] = True

    def __post_init__(self) -> None:
        real_field(self, "tau", above=0, at_most=1)

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        return select_top(state, proposal.log_prob_BQ, Rule.THRESHOLD, math.log(self.tau))
