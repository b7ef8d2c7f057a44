"""How many: the interval of commits that a row may make at a step of a window.

With M masks at the window's start, at step s of T:

    linear      M // T, and one more in the first M % T steps (LLaDA: the remainder goes to the earliest steps)
    cosine      down to floor(M cos(pi/2 (s + 1) / T)) masks, at least one commit a step (MaskGIT, arXiv 2202.04200)
    unbounded   from one to all that are left
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..kernels.checks import check_integer


@dataclass(frozen=True)
class Quota:
    """Commits allowed at this step, int64 [B] each; at_least <= at_most <= masks left."""

    at_least_B: Tensor
    at_most_B: Tensor


class Schedule(Protocol):
    @property
    def is_fixed(self) -> bool:
        """Whether at_least always equals at_most, so that a threshold could not act."""
        ...

    def quota(self, masked_at_start_B: Tensor, masked_now_B: Tensor, step: Tensor) -> Quota:
        """The quota at `step` (int64 scalar, from 0, within the window), given mask counts int64 [B]."""
        ...

    def least_steps(self, num_masked: int) -> int:
        """Steps that a window of so many masks takes at the very least."""
        ...


@dataclass(frozen=True)
class Linear:
    """Finish a window in `steps` equal steps."""

    steps: int

    def __post_init__(self) -> None:
        check_integer("steps", self.steps)

    @property
    def is_fixed(self) -> bool:
        return True

    def quota(self, masked_at_start_B: Tensor, masked_now_B: Tensor, step: Tensor) -> Quota:
        share_B = masked_at_start_B // self.steps + (step < masked_at_start_B % self.steps).long()
        share_B = torch.minimum(share_B, masked_now_B)
        return Quota(share_B, share_B)

    def least_steps(self, num_masked: int) -> int:
        return min(self.steps, num_masked)


@dataclass(frozen=True)
class Cosine:
    """Finish a window in at most `steps` steps, few commits first."""

    steps: int

    def __post_init__(self) -> None:
        check_integer("steps", self.steps)

    @property
    def is_fixed(self) -> bool:
        return True

    def quota(self, masked_at_start_B: Tensor, masked_now_B: Tensor, step: Tensor) -> Quota:
        left = ((step + 1).clamp(max=self.steps).double() * (math.pi / 2 / self.steps)).cos()
        share_B = (masked_now_B - (masked_at_start_B * left).long()).clamp(min=1)
        share_B = torch.minimum(share_B, masked_now_B)
        return Quota(share_B, share_B)

    def least_steps(self, num_masked: int) -> int:
        return 1


@dataclass(frozen=True)
class Unbounded:
    """Leave the number to the policy: one at least, all that are left at most."""

    @property
    def is_fixed(self) -> bool:
        return False

    def quota(self, masked_at_start_B: Tensor, masked_now_B: Tensor, step: Tensor) -> Quota:
        return Quota(masked_now_B.clamp(max=1), masked_now_B)

    def least_steps(self, num_masked: int) -> int:
        return 1
