"""Bounds that follow from a schedule's quota, found by running it on the host:

    max_remaining(s)   masks left before step s, at most:  the least is committed at every step
    min_steps          steps of a window, at least:        the most is committed at every step

A quota that is drawn gives none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..step_state import StepState
from .base import Schedule

# After so many steps in a row that need no commit, the masks left are taken to stay.
_NUM_IDLE = 1000


@dataclass(frozen=True)
class Bounds:
    """Of a window: masks of a row that may be left before each step, the last entry for all later ones too; and the
    steps that it takes at least."""

    remaining: tuple[int, ...]
    min_steps: int

    def max_remaining(self, num_steps: int) -> int:
        """Masks of a row that may be left after so many steps, none of which returned one to mask."""
        return self.remaining[min(num_steps, len(self.remaining) - 1)]


@lru_cache(maxsize=4096)
def bounds(schedule: Schedule, num_masked: int, size: int, is_ragged: bool = False) -> Bounds:
    """Bounds of a window of `size` positions whose rows start with `num_masked` masks at most; rows of a ragged one may
    have fewer positions."""
    if schedule.is_drawn or not num_masked:
        return Bounds((num_masked,), 1)
    num_B = torch.arange(1, num_masked + 1)
    # The fewer positions a row has beside its masks, the fewer it has to commit.
    slow = StepState.of_counts(schedule, num_B, size=size, size_B=num_B if is_ragged else None)
    fast = StepState.of_counts(schedule, num_B[-1:], size=size)
    num_steps = sum(1 for _ in _left(fast, at_most=True))
    return Bounds((num_masked, *_left(slow, at_most=False)), num_steps)


def _left(start: StepState, *, at_most: bool) -> Iterator[int]:
    """Masks left in any row after each step, until none is."""
    left_B, num_left, num_idle, index = start.num_masked_B, int(start.num_masked_B.max()), 0, 0
    while num_left and num_idle < _NUM_IDLE:
        quota = start.at_step(index, left_B).quota
        committed_B: Tensor = quota.at_most_B if at_most else quota.at_least_B
        left_B = left_B - committed_B
        num_idle = 0 if committed_B.any() else num_idle + 1
        num_left, index = int(left_B.max()), index + 1
        yield num_left
