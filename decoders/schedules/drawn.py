"""Schedules that draw, from the row's seed and the step, how many masks are decided or when. With m masks now:

    binomial        Binomial(m, 1 - t' / t), t from 1 to 0 in T equal steps: with positions in random order this is
                    ancestral sampling (MDLM, arXiv 2406.07524), where each position leaves the mask by itself
    first hitting   one at a time, t' = t u^(1/m): the times at which the exact reverse process decides them
                    (arXiv 2409.02908); with positions in random order no step is empty and none decides two
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.checks import integer_field
from ...kernels.counter_rng import COUNT_STREAM, uniform
from .base import Progress, Quota, Schedule, Times, exactly, linear_times


def _uniform(progress: Progress, step: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers 0 to size - 1, int64 [B, S], and a uniform for each."""
    number_BS = torch.arange(progress.size, device=progress.seed_B.device).expand(len(progress.seed_B), -1)
    return number_BS, uniform(progress.seed_B, number_BS, step, COUNT_STREAM)


@dataclass(frozen=True)
class Binomial(Schedule):
    """Finish a window in `steps` steps, in each of which every mask is decided by itself with the same probability.
    Steps may be empty."""

    steps: int

    def __post_init__(self) -> None:
        integer_field(self, "steps")

    def quota(self, progress: Progress) -> Quota:
        before, after = self.times(progress)
        number_BS, u_BS = _uniform(progress, progress.step)
        decided_BS = (u_BS < 1 - after / before) | (after <= 0)
        return exactly((decided_BS & (number_BS < progress.masked_now_B[:, None])).sum(1), progress)

    def times(self, progress: Progress) -> Times:
        return linear_times(progress, self.steps)

    def most_left(self, num_masked: int, num_steps: int) -> int:
        return num_masked if num_steps < self.steps else 0


@dataclass(frozen=True)
class FirstHitting(Schedule):
    """One commit a step, at the times of the exact reverse process, the last of which is still above 0."""

    @property
    def is_time_over_at_last(self) -> bool:
        return False


    def quota(self, progress: Progress) -> Quota:
        return exactly(torch.ones_like(progress.masked_now_B), progress)

    def times(self, progress: Progress) -> Times:
        jump_BS, u_BS = _uniform(progress, torch.zeros_like(progress.step))
        masks_BS = (progress.masked_at_start_B[:, None] - jump_BS).clamp(min=1)
        log_factor_BS = u_BS.log() / masks_BS
        return Times(*(log_factor_BS.masked_fill(jump_BS >= progress.step + later, 0).sum(1).exp()
                       for later in (0, 1)))

    def least_steps(self, num_masked: int) -> int:
        return num_masked

    def most_left(self, num_masked: int, num_steps: int) -> int:
        return max(num_masked - num_steps, 0)
