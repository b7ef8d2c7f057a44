"""Random order: the order in which masked diffusion is trained (LLaDA's `remasking='random'`)."""

from dataclasses import dataclass

from ...kernels.counter_rng import uniform
from ..proposal import Proposal
from ..step_state import StepState
from .base import Edit, Policy
from .ranking import select_top


@dataclass(frozen=True)
class RandomOrder(Policy):
    """Commit a uniform choice of the masked positions, drawn from the row's seed, the position and the step."""

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        return select_top(state, uniform(state.seed_B, state.query_BQ, state.step_B))
