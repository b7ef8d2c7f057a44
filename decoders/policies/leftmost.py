"""Left to right: the order of autoregression."""

from dataclasses import dataclass

from .base import Edit, Policy, Situation


@dataclass(frozen=True)
class Leftmost(Policy):
    """Commit the first eligible positions."""


    def select(self, situation: Situation) -> Edit:
        rank_BQ = situation.eligible_BQ.cumsum(1)
        return Edit(situation.eligible_BQ & (rank_BQ <= situation.quota.at_most_B[:, None]))
