"""Lowest entropy first (Dream's entropy)."""

from dataclasses import dataclass
from typing import ClassVar

from ...kernels.token_statistics import Statistic
from .base import Edit, Policy, Situation
from .ranking import best


@dataclass(frozen=True)
class LowEntropy(Policy):
    """Commit the positions whose distribution has the lowest entropy."""

    statistics: ClassVar[frozenset[Statistic]] = frozenset({"entropy"})

    def select(self, situation: Situation) -> Edit:
        assert situation.proposal.entropy_BQ is not None
        return best(situation, -situation.proposal.entropy_BQ)
