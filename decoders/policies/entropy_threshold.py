"""Entropy threshold: commit every position of low enough entropy (dParallel, arXiv 2509.26488)."""

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
class EntropyThreshold(Policy):
    """Commit every position whose distribution has an entropy of at most `nats`, within the quota: the lowest entropies
    first where fewer pass than its minimum or more than its maximum. Equality passes, as in the published code for
    LLaDA; the code for Dream excludes it."""

    nats: float
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"entropy"})
    needs_open_quota: ClassVar[bool] = True

    def __post_init__(self) -> None:
        real_field(self, "nats", at_least=0)

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        return select_top(state, -proposal.entropy_BQ, Rule.THRESHOLD, -self.nats)
