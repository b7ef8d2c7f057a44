"""Expert affinity: of probable positions first those with rare experts, so that later steps read fewer experts (ours).
"""

from dataclasses import dataclass
from typing import ClassVar

from ...decoders import Edit, Policy, Proposal, StepState
from ...decoders.policies.ranking import select_top
from ...kernels.checks import LARGEST_FACTOR, real_field
from ...kernels.token_statistics import Statistic
from .expert_aware import RarityStatistics


@dataclass(frozen=True)
class ExpertAffinity(Policy):
    """Commit the positions with the largest probability of the proposed token + `weight` * expert rarity. It saves
    reads with a cache that no longer feeds committed positions (delayed), and needs a model that computes the rarity:
    ValueError unless it is ExpertAware."""

    weight: float
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob"})

    def __post_init__(self) -> None:
        real_field(self, "weight", at_least=0, at_most=LARGEST_FACTOR)

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        if not isinstance(proposal.found, RarityStatistics):
            raise ValueError(f"policy {self}: needs a model that tells how rare its positions' experts are; make it "
                             "ExpertAware")
        return select_top(state, proposal.log_prob_BQ.exp() + self.weight * proposal.found.expert_rarity_BQ)
