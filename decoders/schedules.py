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

    def quota(self, masked_at_start_B: Tensor, masked_now_B: Tensor, step: int) -> Quota:
        """The quota at `step` (from 0, within the window), given mask counts int64 [B]."""
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

    def quota(self, masked_at_start_B: Tensor, masked_now_B: Tensor, step: int) -> Quota:
        share_B = masked_at_start_B // self.steps + (step < masked_at_start_B % self.steps).long()
        share_B = torch.minimum(share_B, masked_now_B)
        return Quota(share_B, share_B)


@dataclass(frozen=True)
class Cosine:
    """Finish a window in at most `steps` steps, few commits first."""

    steps: int

    def __post_init__(self) -> None:
        check_integer("steps", self.steps)

    @property
    def is_fixed(self) -> bool:
        return True

    def quota(self, masked_at_start_B: Tensor, masked_now_B: Tensor, step: int) -> Quota:
        left = 0.0 if step + 1 >= self.steps else math.cos(math.pi / 2 * (step + 1) / self.steps)
        share_B = (masked_now_B - (masked_at_start_B * left).long()).clamp(min=1)
        share_B = torch.minimum(share_B, masked_now_B)
        return Quota(share_B, share_B)


@dataclass(frozen=True)
class Unbounded:
    """Leave the number to the policy: one at least, all that are left at most."""

    @property
    def is_fixed(self) -> bool:
        return False

    def quota(self, masked_at_start_B: Tensor, masked_now_B: Tensor, step: int) -> Quota:
        return Quota(masked_now_B.clamp(max=1), masked_now_B)
