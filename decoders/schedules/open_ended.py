"""Schedules that leave the number of commits to the policy. With m masks now:

    unbounded   from 1 to m
    floor       from what another schedule fixes to m (SDAR's and LLaDA2's quota under a threshold)
    free        from 0 to m, and exactly m once the time of another schedule is over (ReMDM, P2)
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..step_state import StepState
from .base import Quota, QuotaKind, Schedule, Times


@dataclass(frozen=True)
class Unbounded(Schedule):
    """At least one, at most all masks left."""

    quota_kind: ClassVar[QuotaKind] = QuotaKind.MINIMUM

    @property
    def is_timed(self) -> bool:
        return False

    def quota(self, state: StepState) -> Quota:
        return Quota(state.num_masked_B.clamp(max=1), state.num_masked_B)

    def times(self, state: StepState) -> None:
        return None


@dataclass(frozen=True)
class Floor(Schedule):
    """At least as many as the base schedule commits, at most all masks left."""

    base: Schedule
    quota_kind: ClassVar[QuotaKind] = QuotaKind.MINIMUM

    @property
    def is_timed(self) -> bool:
        return self.base.is_timed

    @property
    def ends_at_zero(self) -> bool:
        return self.base.ends_at_zero

    @property
    def is_drawn(self) -> bool:
        return self.base.is_drawn

    def quota(self, state: StepState) -> Quota:
        return Quota(self.base.quota(state).at_least_B, state.num_masked_B)

    def times(self, state: StepState) -> Times | None:
        return self.base.times(state)


@dataclass(frozen=True)
class Free(Schedule):
    """Any number per step, and all masks left once the base schedule's time is over."""

    base: Schedule
    quota_kind: ClassVar[QuotaKind] = QuotaKind.ANY

    def __post_init__(self) -> None:
        if not self.base.ends_at_zero:
            raise ValueError(f"base={self.base}: must be a schedule whose time ends at 0")

    def quota(self, state: StepState) -> Quota:
        left_B = state.num_masked_B
        return Quota(torch.where(self.times(state).after <= 0, left_B, 0), left_B)

    def times(self, state: StepState) -> Times:
        times = self.base.times(state)
        assert times is not None
        return times
