"""Factor: the more tokens a step commits, the more probable each must be (Fast-dLLM, arXiv 2505.22618)."""

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
class Factor(Policy):
    """Commit the n most probable positions, n the largest number for which (n + 1) (1 - the nth probability) is below
    `factor`, within the quota."""

    factor: float
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob"})
    needs_open_quota: ClassVar[bool] = True

    def __post_init__(self) -> None:
        real_field(self, "factor", above=0)

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        return select_top(state, proposal.log_prob_BQ, Rule.FACTOR, self.factor)
