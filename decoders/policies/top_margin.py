"""Largest margin first (Kim et al., arXiv 2502.06768; Dream's topk_margin)."""

from dataclasses import dataclass
from typing import ClassVar

from ...kernels.token_statistics import Statistic
from .base import Edit, Policy, Situation
from .ranking import best


@dataclass(frozen=True)
class TopMargin(Policy):
    """Commit the positions whose two most probable tokens differ most in probability."""

    statistics: ClassVar[frozenset[Statistic]] = frozenset({"margin"})

    def select(self, situation: Situation) -> Edit:
        assert situation.proposal.margin_BQ is not None
        return best(situation, situation.proposal.margin_BQ)
