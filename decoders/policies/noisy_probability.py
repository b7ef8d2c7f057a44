"""Noisy probability: the surest positions more often than not (Dream's alg_temp, arXiv 2508.15487)."""

from dataclasses import dataclass
from typing import ClassVar

from ...kernels.checks import real_field
from ...kernels.counter_rng import uniform
from ...kernels.token_statistics import Statistic, bounded
from .base import Edit, Policy, Situation
from .ranking import best


@dataclass(frozen=True)
class NoisyProbability(Policy):
    """Commit positions drawn one after the other, without replacement, from softmax(probability of the proposed token /
    temperature) over the eligible ones: the largest of probability / temperature + Gumbel noise are such a draw."""

    temperature: float
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob"})

    def __post_init__(self) -> None:
        real_field(self, "temperature", above=0)

    def select(self, situation: Situation) -> Edit:
        assert situation.proposal.log_prob_BQ is not None
        u_BQ = uniform(situation.canvas.seed_B, situation.query_BQ, situation.step)
        return best(situation, situation.proposal.log_prob_BQ.exp() / bounded(self.temperature) - (-u_BQ.log()).log())
