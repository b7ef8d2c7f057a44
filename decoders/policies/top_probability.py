"""Most probable first: LLaDA's low-confidence remasking, Dream's maskgit_plus (MaskGIT, arXiv 2202.04200)."""

from dataclasses import dataclass
from typing import ClassVar

from ...kernels.token_statistics import Statistic
from .base import Edit, Policy, Situation
from .ranking import best


@dataclass(frozen=True)
class TopProbability(Policy):
    """Commit the positions whose proposed token is most probable."""

    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob"})

    def select(self, situation: Situation) -> Edit:
        assert situation.proposal.log_prob_BQ is not None
        return best(situation, situation.proposal.log_prob_BQ)
