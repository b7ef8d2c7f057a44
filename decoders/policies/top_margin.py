"""Largest margin first (Kim et al., arXiv 2502.06768; Dream's topk_margin)."""

from dataclasses import dataclass
from typing import ClassVar

from ...kernels.token_statistics import Statistic
from ..proposal import Proposal
from ..step_state import StepState
from .base import Edit, Policy
from .ranking import select_top


@dataclass(frozen=True)
class TopMargin(Policy):
    """Commit the positions whose two most probable tokens differ most in probability."""

    statistics: ClassVar[frozenset[Statistic]] = frozenset({"margin"})

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        return select_top(state, proposal.margin_BQ)
