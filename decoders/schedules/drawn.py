"""Schedules that draw, from the row's seed and the step, how many masks are committed or when. With m masks now:

    binomial        Binomial(m, 1 - t' / t), t from 1 to 0 in T equal steps: with positions in random order this is
                    ancestral sampling (MDLM, arXiv 2406.07524), where each position is unmasked independently
    first hitting   one commit a step, t' = t u^(1/m): the times at which the exact reverse process commits
                    (arXiv 2409.02908); with positions in random order no step is empty and none commits two
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.checks import integer_field
from ...kernels.counter_rng import COUNT_STREAM, uniform
from ..step_state import StepState
from .base import Quota, Schedule, Times, exactly, linear_times


def _uniform(state: StepState, step_B: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers 0 to size - 1, int64 [B, N], and a uniform draw for each."""
    number_BN = torch.arange(state.window.size, device=state.seed_B.device).expand(len(state.seed_B), -1)
    return number_BN, uniform(state.seed_B, number_BN, step_B, COUNT_STREAM)


@dataclass(frozen=True)
class Binomial(Schedule):
    """Finish a window in `steps` steps; in each, every mask is committed independently with the same probability. Steps
    may be empty."""

    steps: int

    def __post_init__(self) -> None:
        integer_field(self, "steps")

    @property
    def is_drawn(self) -> bool:
        return True

    def quota(self, state: StepState) -> Quota:
        before_B, after_B = self.times(state)
        number_BN, u_BN = _uniform(state, state.step_B)
        commits_BN = (u_BN < (1 - after_B / before_B)[:, None]) | (after_B <= 0)[:, None]
        return exactly((commits_BN & (number_BN < state.num_masked_B[:, None])).sum(1), state)

    def times(self, state: StepState) -> Times:
        return linear_times(state, self.steps)


@dataclass(frozen=True)
class FirstHitting(Schedule):
    """One commit a step, at the times of the exact reverse process, the last of which is still above 0."""

    @property
    def ends_at_zero(self) -> bool:
        return False

    def quota(self, state: StepState) -> Quota:
        return exactly(torch.ones_like(state.num_masked_B), state)

    def times(self, state: StepState) -> Times:
        jump_BN, u_BN = _uniform(state, torch.zeros_like(state.step_B))
        masks_BN = (state.num_masked_at_start_B[:, None] - jump_BN).clamp(min=1)
        log_factor_BN = u_BN.log() / masks_BN
        return Times(*(log_factor_BN.masked_fill(jump_BN >= (state.step_B + later)[:, None], 0).sum(1).exp()
                       for later in (0, 1)))
