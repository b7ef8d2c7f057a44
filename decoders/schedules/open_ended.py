"""Schedules that leave the number of commits to the policy. With m masks now:

    unbounded   from one to all that are left
    floor       from what another schedule fixes to all that are left (SDAR's and LLaDA2's quota under a threshold)
    free        from none to all that are left, and all of them when the time of another schedule is over (ReMDM, P2)
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from .base import Freedom, Progress, Quota, Schedule, Times


@dataclass(frozen=True)
class Unbounded(Schedule):
    """One at least, all that are left at most."""

    freedom: ClassVar[Freedom] = Freedom.OPEN

    @property
    def is_timed(self) -> bool:
        return False

    def quota(self, progress: Progress) -> Quota:
        return Quota(progress.masked_now_B.clamp(max=1), progress.masked_now_B)

    def times(self, progress: Progress) -> None:
        return None

    def most_left(self, num_masked: int, num_steps: int) -> int:
        return max(num_masked - num_steps, 0)


@dataclass(frozen=True)
class Floor(Schedule):
    """As many as the base schedule says at least, all that are left at most."""

    base: Schedule
    freedom: ClassVar[Freedom] = Freedom.OPEN

    @property
    def is_timed(self) -> bool:
        return self.base.is_timed

    @property
    def is_time_over_at_last(self) -> bool:
        return self.base.is_time_over_at_last

    def quota(self, progress: Progress) -> Quota:
        return Quota(self.base.quota(progress).at_least_B, progress.masked_now_B)

    def times(self, progress: Progress) -> Times | None:
        return self.base.times(progress)

    def most_left(self, num_masked: int, num_steps: int) -> int:
        return self.base.most_left(num_masked, num_steps)


@dataclass(frozen=True)
class Free(Schedule):
    """Any number a step, and all that are left when the base schedule's time is over."""

    base: Schedule
    freedom: ClassVar[Freedom] = Freedom.FREE

    def __post_init__(self) -> None:
        if not self.base.is_time_over_at_last:
            raise ValueError(f"base={self.base}: must be a schedule whose time ends at 0")

    def quota(self, progress: Progress) -> Quota:
        left_B = progress.masked_now_B
        return Quota(torch.where(self.times(progress).after <= 0, left_B, 0), left_B)

    def times(self, progress: Progress) -> Times:
        times = self.base.times(progress)
        assert times is not None
        return times

    def most_left(self, num_masked: int, num_steps: int) -> int:
        return num_masked
