"""Lowest entropy first (Dream's entropy)."""

from dataclasses import dataclass
from typing import ClassVar

from ...kernels.token_statistics import Statistic
from ..proposal import Proposal
from ..step_state import StepState
from .base import Edit, Policy
from .ranking import select_top


@dataclass(frozen=True)
class LowEntropy(Policy):
    """Commit the positions whose distribution has the lowest entropy."""

    statistics: ClassVar[frozenset[Statistic]] = frozenset({"entropy"})

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        return select_top(state, -proposal.entropy_BQ)
