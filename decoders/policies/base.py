"""Which: what a policy is asked and what it answers."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from ...kernels.token_statistics import Statistic, TokenStatistics
from ..canvas import Canvas
from ..schedules import Quota, Times


@dataclass(frozen=True)
class Situation:
    """A step seen by a policy: the sampler's proposal for the window's positions and which of them are eligible (still
    masked), both [B, Q]; the absolute positions, the rows' quota, the canvas, and the step within the window (int64
    scalar).

    Where the policy asks for them: `times` are the diffusion times of the step, revisable_BQ says which positions were
    decided earlier, and `state` is what the policy answered last."""

    proposal: TokenStatistics
    eligible_BQ: Tensor
    query_BQ: Tensor
    quota: Quota
    canvas: Canvas
    step: Tensor
    times: Times | None = None
    revisable_BQ: Tensor | None = None
    state: Tensor | None = None


@dataclass(frozen=True)
class Edit:
    """What to change at the window's positions, each bool [B, Q]: proposed tokens to commit, at eligible positions as
    many as the quota allows, and at any revisable ones; revisable positions to return to mask (None: none).

    unfinished_B (bool [B]) marks rows that want another step even if nothing of theirs is masked (None: none do);
    `state` is handed back at the next step."""

    commit_BQ: Tensor
    remask_BQ: Tensor | None = None
    unfinished_B: Tensor | None = None
    state: Tensor | None = None


class Policy(Protocol):
    """A subclass states what differs from these defaults."""

    statistics: ClassVar[frozenset[Statistic]] = frozenset()
    """What the sampler must compute for it."""
    needs_open_quota: ClassVar[bool] = False
    """Whether a fixed schedule would leave it without effect."""
    needs_free_quota: ClassVar[bool] = False
    """Whether it may commit nothing at a step, which any least number would contradict."""
    needs_times: ClassVar[bool] = False
    """Whether it asks for the diffusion times of a step."""
    revises: ClassVar[bool] = False
    """Whether it overwrites decided positions or returns them to mask."""
    needs_whole_window: ClassVar[bool] = False
    """Whether it looks at proposals for decided positions although it does not revise."""

    def begin(self, query_BQ: Tensor) -> Tensor | None:
        """Its state at the start of a window with these positions."""
        return None

    def select(self, situation: Situation) -> Edit:
        """What to change after a forward."""
        ...
