"""Most probable first: LLaDA's low-confidence remasking, Dream's maskgit_plus (MaskGIT, arXiv 2202.04200)."""

from dataclasses import dataclass
from typing import ClassVar

from ...kernels.token_statistics import Statistic
from ..proposal import Proposal
from ..step_state import StepState
from .base import Edit, Policy
from .ranking import select_top


@dataclass(frozen=True)
class TopProbability(Policy):
    """Commit the positions whose proposed token is most probable."""

    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob"})

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        return select_top(state, proposal.log_prob_BQ)
