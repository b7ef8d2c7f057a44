"""Random order: the order in which masked diffusion is trained (LLaDA's `remasking='random'`)."""

from dataclasses import dataclass

from ...kernels.counter_rng import uniform
from .base import Edit, Policy, Situation
from .ranking import best


@dataclass(frozen=True)
class RandomOrder(Policy):
    """Commit a uniform choice of the eligible positions, drawn from the row's seed, the position and the step."""


    def select(self, situation: Situation) -> Edit:
        return best(situation, uniform(situation.canvas.seed_B, situation.query_BQ, situation.step))
