"""Left to right: the order of autoregression."""

from dataclasses import dataclass
from typing import ClassVar

from ...kernels.token_statistics import Statistic
from .base import Edit, Situation


@dataclass(frozen=True)
class Leftmost:
    """Commit the first eligible positions."""

    statistics: ClassVar[frozenset[Statistic]] = frozenset()
    needs_open_quota: ClassVar[bool] = False

    def select(self, situation: Situation) -> Edit:
        rank_BQ = situation.eligible_BQ.cumsum(1)
        return Edit(situation.eligible_BQ & (rank_BQ <= situation.quota.at_most_B[:, None]))
