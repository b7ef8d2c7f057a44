"""Bounds that follow from a schedule's quota, found by running it on the host:

    max_remaining(s)   most masks left before step s:   every step commits its minimum
    min_steps          fewest steps of a window:        every step commits its maximum

A random quota gives no bounds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..step_state import StepState
from .base import Schedule

# After so many consecutive steps without a required commit, the masks left are assumed to stay.
_NUM_IDLE = 1000


@dataclass(frozen=True)
class Bounds:
    """Bounds of a window: the most masks of a row left before each step (the last entry holds for all later ones too),
    and the fewest steps it takes."""

    remaining: tuple[int, ...]
    min_steps: int

    def max_remaining(self, num_steps: int) -> int:
        """Most masks of a row left after `num_steps` steps without remasking."""
        return self.remaining[min(num_steps, len(self.remaining) - 1)]


@lru_cache(maxsize=4096)
def bounds(schedule: Schedule, num_masked: int, size: int, is_ragged: bool = False) -> Bounds:
    """Bounds of a window of `size` positions whose rows start with at most `num_masked` masks; rows of a ragged window
    may have fewer positions."""
    if schedule.is_drawn or not num_masked:
        return Bounds((num_masked,), 1)
    num_B = torch.arange(1, num_masked + 1)
    # The fewer unmasked positions a row has, the fewer commits it must make.
    slow = StepState.of_counts(schedule, num_B, size=size, size_B=num_B if is_ragged else None)
    fast = StepState.of_counts(schedule, num_B[-1:], size=size)
    num_steps = sum(1 for _ in _left(fast, at_most=True))
    return Bounds((num_masked, *_left(slow, at_most=False)), num_steps)


def _left(start: StepState, *, at_most: bool) -> Iterator[int]:
    """Most masks left in any row after each step, until none is left."""
    left_B, num_left, num_idle, index = start.num_masked_B, int(start.num_masked_B.max()), 0, 0
    while num_left and num_idle < _NUM_IDLE:
        quota = start.at_step(index, left_B).quota
        committed_B: Tensor = quota.at_most_B if at_most else quota.at_least_B
        left_B = left_B - committed_B
        num_idle = 0 if committed_B.any() else num_idle + 1
        num_left, index = int(left_B.max()), index + 1
        yield num_left
