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
from ..step_state import StepState
from .base import Quota, Schedule, Times, exactly, linear_times


@dataclass(frozen=True)
class Linear(Schedule):
    """Finish a window in `steps` equal steps; the earliest take the remainder."""

    steps: int

    def __post_init__(self) -> None:
        integer_field(self, "steps")

    def quota(self, state: StepState) -> Quota:
        at_start_B = state.num_masked_at_start_B
        if self.steps == 1:
            return exactly(at_start_B, state)
        return exactly(at_start_B // self.steps + (state.step_B < at_start_B % self.steps).long(), state)

    def times(self, state: StepState) -> Times:
        return linear_times(state, self.steps)


@dataclass(frozen=True)
class LinearRemainderLast(Schedule):
    """Finish a window in `steps` equal steps; the latest, which are most certain, take the remainder."""

    steps: int

    def __post_init__(self) -> None:
        integer_field(self, "steps")

    def quota(self, state: StepState) -> Quota:
        at_start_B = state.num_masked_at_start_B
        is_late_B = state.step_B >= self.steps - at_start_B % self.steps
        return exactly(at_start_B // self.steps + is_late_B.long(), state)

    def times(self, state: StepState) -> Times:
        return linear_times(state, self.steps)


@dataclass(frozen=True)
class Even(Schedule):
    """As many commits per step as finish a fully masked window in `steps` steps: partly given rows take fewer steps,
    not smaller ones."""

    steps: int

    def __post_init__(self) -> None:
        integer_field(self, "steps")

    def quota(self, state: StepState) -> Quota:
        size = state.window.size if state.window.size_B is None else state.window.size_B
        return exactly(size // self.steps + (state.step_B < size % self.steps).long(), state)

    def times(self, state: StepState) -> Times:
        return linear_times(state, self.steps)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Finish a window in at most `steps` steps, few commits first."""

    steps: int

    def __post_init__(self) -> None:
        integer_field(self, "steps")

    def quota(self, state: StepState) -> Quota:
        # sin(pi / 6) may fall short of 1/2 by a rounding error.
        left_B = (state.num_masked_at_start_B * self.times(state).after + 1e-9).long()
        return exactly((state.num_masked_B - left_B).clamp(min=1), state)

    def times(self, state: StepState) -> Times:
        before_B, after_B = linear_times(state, self.steps)
        return Times((before_B * (math.pi / 2)).sin(), (after_B * (math.pi / 2)).sin())


def _dream_times(state: StepState, steps: int, eps: float) -> Times:
    """Times from 1 to eps, and 0 after the last step."""
    before_B, after_B = linear_times(state, steps, eps)
    return Times(before_B, torch.where(state.step_B + 1 >= steps, 0.0, after_B))


@dataclass(frozen=True)
class Dream(Schedule):
    """Finish a window in `steps` steps, each rounded down; the last one commits all masks left. Each row uses its own
    number of masks (Dream uses the batch's mean)."""

    steps: int
    eps: float = 1e-3

    def __post_init__(self) -> None:
        integer_field(self, "steps")
        real_field(self, "eps", above=0, at_most=0.5)

    def quota(self, state: StepState) -> Quota:
        before_B, after_B = self.times(state)
        return exactly((state.num_masked_B * (1 - after_B / before_B)).long(), state)

    def times(self, state: StepState) -> Times:
        return _dream_times(state, self.steps, self.eps)


@dataclass(frozen=True)
class DreamUntruncated(Schedule):
    """Finish a window in `steps` steps; the masks left after each, not its commits, are rounded down."""

    steps: int
    eps: float = 1e-3

    def __post_init__(self) -> None:
        integer_field(self, "steps")
        real_field(self, "eps", above=0, at_most=0.5)

    def quota(self, state: StepState) -> Quota:
        left_B: Tensor = (state.num_masked_at_start_B * self.times(state).after).long()
        return exactly((state.num_masked_B - left_B).clamp(min=0), state)

    def times(self, state: StepState) -> Times:
        return _dream_times(state, self.steps, self.eps)
