"""Schedules that fix the number of commits. With M masks at the window's start, m now, at step s of T, from 0:

    linear                  M // T, and one more in the first M % T steps (LLaDA: the remainder goes to the earliest)
    linear, remainder last  M // T, and one more in the last M % T steps
    even                    S // T of a window of S positions, and one more in the first S % T steps, however many of
                            them are masked (SDAR, LLaDA2)
    cosine                  down to floor(M cos(pi/2 (s + 1) / T)) masks, at least one commit a step (MaskGIT, arXiv
                            2202.04200)
    dream                   floor(m (1 - t' / t)), t from 1 to eps in T steps; all at the last one. Rounding down
                            delays: at T = M the first step commits nothing and the last one two
    dream, untruncated      down to floor(M t') masks, so that rounding never accumulates
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.checks import integer_field, real_field
from .base import Progress, Quota, Schedule, Times, exactly, linear_times


@dataclass(frozen=True)
class Linear(Schedule):
    """Finish a window in `steps` equal steps; the earliest take the remainder."""

    steps: int

    def __post_init__(self) -> None:
        integer_field(self, "steps")

    def quota(self, progress: Progress) -> Quota:
        at_start_B = progress.masked_at_start_B
        return exactly(at_start_B // self.steps + (progress.step < at_start_B % self.steps).long(), progress)

    def times(self, progress: Progress) -> Times:
        return linear_times(progress, self.steps)

    def least_steps(self, num_masked: int) -> int:
        return min(self.steps, num_masked)

    def most_left(self, num_masked: int, num_steps: int) -> int:
        done = min(num_steps, self.steps)
        return num_masked - done * (num_masked // self.steps) - min(done, num_masked % self.steps)


@dataclass(frozen=True)
class LinearRemainderLast(Schedule):
    """Finish a window in `steps` equal steps; the latest, which are surest, take the remainder."""

    steps: int

    def __post_init__(self) -> None:
        integer_field(self, "steps")

    def quota(self, progress: Progress) -> Quota:
        at_start_B = progress.masked_at_start_B
        is_late_B = progress.step >= self.steps - at_start_B % self.steps
        return exactly(at_start_B // self.steps + is_late_B.long(), progress)

    def times(self, progress: Progress) -> Times:
        return linear_times(progress, self.steps)

    def least_steps(self, num_masked: int) -> int:
        return self.steps if num_masked else 0

    def most_left(self, num_masked: int, num_steps: int) -> int:
        todo = self.steps - min(num_steps, self.steps)
        return todo * (num_masked // self.steps) + min(todo, num_masked % self.steps)


@dataclass(frozen=True)
class Even(Schedule):
    """As many commits a step as finish a wholly masked window in `steps` steps: rows of which part is given take fewer
    steps, not smaller ones."""

    steps: int

    def __post_init__(self) -> None:
        integer_field(self, "steps")

    def quota(self, progress: Progress) -> Quota:
        size = progress.size if progress.size_B is None else progress.size_B
        share = size // self.steps + (progress.step < size % self.steps).long()
        return exactly(share.expand_as(progress.masked_now_B), progress)

    def times(self, progress: Progress) -> Times:
        return linear_times(progress, self.steps)

    def most_left(self, num_masked: int, num_steps: int) -> int:
        return Linear(self.steps).most_left(num_masked, num_steps)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Finish a window in at most `steps` steps, few commits first."""

    steps: int

    def __post_init__(self) -> None:
        integer_field(self, "steps")

    def quota(self, progress: Progress) -> Quota:
        # The sine of a sixth of a circle may fall short of a half.
        left_B = (progress.masked_at_start_B * self.times(progress).after + 1e-9).long()
        return exactly((progress.masked_now_B - left_B).clamp(min=1), progress)

    def times(self, progress: Progress) -> Times:
        before, after = linear_times(progress, self.steps)
        return Times((before * (math.pi / 2)).sin(), (after * (math.pi / 2)).sin())

    def most_left(self, num_masked: int, num_steps: int) -> int:
        return max(num_masked - num_steps, 0)


def _dream_times(progress: Progress, steps: int, eps: float) -> Times:
    """Times from 1 to eps, and 0 after the last step."""
    before, after = linear_times(progress, steps, eps)
    return Times(before, torch.where(progress.step + 1 >= steps, 0.0, after))


@dataclass(frozen=True)
class Dream(Schedule):
    """Finish a window in `steps` steps, each rounded down, the last one taking what is left; each row by its own masks
    (Dream takes the batch's mean)."""

    steps: int
    eps: float = 1e-3

    def __post_init__(self) -> None:
        integer_field(self, "steps")
        real_field(self, "eps", above=0, at_most=0.5)

    def quota(self, progress: Progress) -> Quota:
        before, after = self.times(progress)
        return exactly((progress.masked_now_B * (1 - after / before)).long(), progress)

    def times(self, progress: Progress) -> Times:
        return _dream_times(progress, self.steps, self.eps)

    def most_left(self, num_masked: int, num_steps: int) -> int:
        return num_masked if num_steps < self.steps else 0


@dataclass(frozen=True)
class DreamUntruncated(Schedule):
    """Finish a window in `steps` steps whose sums, not whose parts, are rounded down."""

    steps: int
    eps: float = 1e-3

    def __post_init__(self) -> None:
        integer_field(self, "steps")
        real_field(self, "eps", above=0, at_most=0.5)

    def quota(self, progress: Progress) -> Quota:
        left_B: Tensor = (progress.masked_at_start_B * self.times(progress).after).long()
        return exactly((progress.masked_now_B - left_B).clamp(min=0), progress)

    def times(self, progress: Progress) -> Times:
        return _dream_times(progress, self.steps, self.eps)

    def most_left(self, num_masked: int, num_steps: int) -> int:
        return num_masked if num_steps < self.steps else 0
