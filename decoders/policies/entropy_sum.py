"""Entropy sum: the entropy bound with the largest entropy counted too (as JetEngine reads arXiv 2505.24857)."""

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
class EntropySum(Policy):
    """Commit the positions of lowest entropy, as many as keep the sum of their entropies below `gamma` nats, within the
    quota: stricter than the entropy bound of the same gamma."""

    gamma: float
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"entropy"})
    needs_open_quota: ClassVar[bool] = True

    def __post_init__(self) -> None:
        real_field(self, "gamma", above=0)

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        return select_top(state, -proposal.entropy_BQ, Rule.ENTROPY_SUM, self.gamma)
