"""Noisy probability: positions sampled by confidence (Dream's alg_temp, arXiv 2508.15487)."""

from dataclasses import dataclass
from typing import ClassVar

from ...kernels.checks import real_field
from ...kernels.counter_rng import uniform
from ...kernels.token_statistics import Statistic, bounded
from ..proposal import Proposal
from ..step_state import StepState
from .base import Edit, Policy
from .ranking import select_top


@dataclass(frozen=True)
class NoisyProbability(Policy):
    """Commit positions drawn without replacement from softmax(probability of the proposed token / temperature) over the
    masked ones: those with the largest probability / temperature + Gumbel noise."""

    temperature: float
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob"})

    def __post_init__(self) -> None:
        real_field(self, "temperature", above=0)

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        u_BQ = uniform(state.seed_B, state.query_BQ, state.step_B)
        return select_top(state, proposal.log_prob_BQ.exp() / bounded(self.temperature) - (-u_BQ.log()).log())
