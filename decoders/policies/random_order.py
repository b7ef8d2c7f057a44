"""Random order: the order in which masked diffusion is trained (LLaDA's `remasking='random'`)."""

from dataclasses import dataclass
from typing import ClassVar

from ...kernels.counter_rng import uniform
from ...kernels.token_statistics import Statistic
from .base import Edit, Situation
from .ranking import best


@dataclass(frozen=True)
class RandomOrder:
    """Commit a uniform choice of the eligible positions, drawn from the row's seed, the position and the step."""

    statistics: ClassVar[frozenset[Statistic]] = frozenset()
    needs_open_quota: ClassVar[bool] = False

    def select(self, situation: Situation) -> Edit:
        return best(situation, uniform(situation.canvas.seed_B, situation.query_BQ, situation.step))
