"""The interface of a schedule: how many positions a step commits."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from ..step_state import StepState


@dataclass(frozen=True)
class Quota:
    """Minimum and maximum commits of this step, int64 [B] each; at_least <= at_most <= masks left."""

    at_least_B: Tensor
    at_most_B: Tensor


class Times(NamedTuple):
    """Diffusion times before and after a step, floats [B] from 1 to 0: the expected share of the window that is masked.
    """

    before: Tensor
    after: Tensor


class QuotaKind(Enum):
    """How many commits a schedule lets the policy make: a fixed number (EXACT), at least a minimum (MINIMUM), or any
    number including 0 (ANY)."""

    EXACT = "exact"
    MINIMUM = "minimum"
    ANY = "any"


class Schedule(Protocol):
    """A subclass states what differs from these defaults. It must be hashable, as a frozen dataclass is."""

    quota_kind: ClassVar[QuotaKind] = QuotaKind.EXACT

    @property
    def is_timed(self) -> bool:
        """Whether it has diffusion times."""
        return True

    @property
    def ends_at_zero(self) -> bool:
        """Whether the time after the last step is 0."""
        return self.is_timed

    @property
    def is_drawn(self) -> bool:
        """Whether the quota is random, so that it is not known before the step."""
        return False

    def quota(self, state: StepState) -> Quota:
        """The quota of this step, a function of the state's counts, sizes, steps and seeds. Of two rows that differ
        only in their masks, the one with more must have no fewer left after the minimum commits."""
        ...

    def times(self, state: StepState) -> Times | None:
        """The diffusion times of this step; None if the schedule has none."""
        ...


def exactly(num_B: Tensor, state: StepState) -> Quota:
    """A quota of exactly `num_B` commits, capped at the masks left."""
    num_B = torch.minimum(num_B, state.num_masked_B)
    return Quota(num_B, num_B)


def linear_times(state: StepState, steps: int, end: float = 0.0) -> Times:
    """Times of `steps` equal steps from 1 to `end`, float64 [B]."""
    # steps / steps is exactly 1, so that the last time is exactly 0 where `end` is 0.
    before, after = (1 - (state.step_B + later).clamp(max=steps).double() / steps * (1 - end) for later in (0, 1))
    return Times(before, after)
