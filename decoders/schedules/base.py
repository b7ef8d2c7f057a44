"""How many: what a schedule is asked and what it answers."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """Where the rows stand in a window of `size` positions: masks at its start and now, int64 [B]; the step (int64
    scalar, from 0, within the window); the rows' seeds, int64 [B]; and how many of the positions each row has, int64
    [B], None where all have them."""

    masked_at_start_B: Tensor
    masked_now_B: Tensor
    step: Tensor
    seed_B: Tensor
    size: int
    size_B: Tensor | None = None


@dataclass(frozen=True)
class Quota:
    """Commits allowed at this step, int64 [B] each; at_least <= at_most <= masks left."""

    at_least_B: Tensor
    at_most_B: Tensor


class Times(NamedTuple):
    """Diffusion times before and after a step, floats from 1 to 0, each [B] or a scalar: the share of the window that
    is expected to be masked."""

    before: Tensor
    after: Tensor


class Freedom(Enum):
    """What a schedule leaves to the policy: nothing; how many more than the least; whether to commit at all."""

    FIXED = "fixed"
    OPEN = "open"
    FREE = "free"


class Schedule(Protocol):
    """A subclass states what differs from these defaults."""

    freedom: ClassVar[Freedom] = Freedom.FIXED

    @property
    def is_timed(self) -> bool:
        """Whether it knows diffusion times."""
        return True

    @property
    def is_time_over_at_last(self) -> bool:
        """Whether the time after the last step is 0."""
        return self.is_timed

    def quota(self, progress: Progress) -> Quota:
        """The quota of this step."""
        ...

    def times(self, progress: Progress) -> Times | None:
        """The diffusion times of this step; None if the schedule knows none."""
        ...

    def least_steps(self, num_masked: int) -> int:
        """Steps that a window of so many masks takes at the very least."""
        return 1

    def most_left(self, num_masked: int, num_steps: int) -> int:
        """Masks that may at most be left of so many after so many steps, none of which returned one to mask."""
        ...


def exactly(share_B: Tensor, progress: Progress) -> Quota:
    """A quota of exactly so many commits, as far as masks are left."""
    share_B = torch.minimum(share_B, progress.masked_now_B)
    return Quota(share_B, share_B)


def linear_times(progress: Progress, steps: int, end: float = 0.0) -> Times:
    """Times of `steps` equal steps from 1 to `end`, float64 scalars."""
    # Divided last, so that the share at the end is exactly 1, and the time exactly 0.
    before, after = (1 - (progress.step + later).clamp(max=steps).double() / steps * (1 - end) for later in (0, 1))
    return Times(before, after)
