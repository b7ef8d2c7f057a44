"""Which: what a policy is asked and what it answers."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from ...kernels.token_statistics import Statistic, TokenStatistics
from ..canvas import Canvas
from ..schedules import Quota


@dataclass(frozen=True)
class Situation:
    """A step seen by a policy: the sampler's proposal and the eligible (still masked) positions of the window, both
    [B, Q], the absolute positions queried, the rows' quota, the canvas, and the step within the window (int64
    scalar)."""

    proposal: TokenStatistics
    eligible_BQ: Tensor
    query_BQ: Tensor
    quota: Quota
    canvas: Canvas
    step: Tensor


@dataclass(frozen=True)
class Edit:
    """Positions of the window to commit, bool [B, Q]: eligible ones, as many as the quota allows."""

    commit_BQ: Tensor


class Policy(Protocol):
    statistics: ClassVar[frozenset[Statistic]]
    """What the sampler must compute for it."""
    needs_open_quota: ClassVar[bool]
    """Whether a fixed schedule would leave it without effect."""

    def select(self, situation: Situation) -> Edit: ...
