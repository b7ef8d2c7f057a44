"""How many: the interface of a schedule."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from ..step_state import StepState


@dataclass(frozen=True)
class Quota:
    """Commits allowed at this step, int64 [B] each; at_least <= at_most <= masks left."""

    at_least_B: Tensor
    at_most_B: Tensor


class Times(NamedTuple):
    """Diffusion times before and after a step, floats [B] from 1 to 0: the share of the window that is expected to be
    masked."""

    before: Tensor
    after: Tensor


class QuotaKind(Enum):
    """What a schedule leaves to the policy: nothing (EXACT); any number from a least one on (MINIMUM); any number, none
    included (ANY)."""

    EXACT = "exact"
    MINIMUM = "minimum"
    ANY = "any"


class Schedule(Protocol):
    """A subclass states what differs from these defaults. It is hashable, as a frozen dataclass is."""

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
        """Whether the quota is drawn, so that it is not known before the step."""
        return False

    def quota(self, state: StepState) -> Quota:
        """The quota of this step, a function of the state's counts, sizes, steps and seeds. Of two rows that differ in
        their masks alone, the one with more has no fewer left after the least commits."""
        ...

    def times(self, state: StepState) -> Times | None:
        """The diffusion times of this step; None if the schedule has none."""
        ...


def exactly(num_B: Tensor, state: StepState) -> Quota:
    """A quota of exactly so many commits, as far as masks are left."""
    num_B = torch.minimum(num_B, state.num_masked_B)
    return Quota(num_B, num_B)


def linear_times(state: StepState, steps: int, end: float = 0.0) -> Times:
    """Times of `steps` equal steps from 1 to `end`, float64 [B]."""
    # Divided last, so that the share at the end is exactly 1, and the time exactly 0.
    before, after = (1 - (state.step_B + later).clamp(max=steps).double() / steps * (1 - end) for later in (0, 1))
    return Times(before, after)
