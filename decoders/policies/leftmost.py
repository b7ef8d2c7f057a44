"""Left to right: the order of autoregression."""

from dataclasses import dataclass

from ..proposal import Proposal
from ..step_state import StepState
from .base import Edit, Policy


@dataclass(frozen=True)
class Leftmost(Policy):
    """Commit the first masked positions."""

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        rank_BQ = state.masked_BQ.cumsum(1)
        return Edit(state.masked_BQ & (rank_BQ <= state.quota.at_most_B[:, None]))
