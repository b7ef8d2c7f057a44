"""Which: the interface of a policy."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from ...kernels.token_statistics import Statistic
from ..proposal import Proposal
from ..step_state import StepState


@dataclass(frozen=True)
class Edit:
    """What to change at the window's positions, each bool [B, Q]: masked positions to commit, as many as the quota
    allows, and any revisable ones to overwrite, with the proposed tokens; revisable positions to return to mask (None:
    none).

    unfinished_B (bool [B]) marks rows that want another step even if nothing of theirs is masked (None: none do);
    `memory` is handed back at the next step."""

    commit_BQ: Tensor
    remask_BQ: Tensor | None = None
    unfinished_B: Tensor | None = None
    memory: Tensor | None = None


class Policy(Protocol):
    """A subclass states what differs from these defaults."""

    statistics: ClassVar[frozenset[Statistic]] = frozenset()
    """What the sampler must compute for it: the proposal has no others."""
    needs_open_quota: ClassVar[bool] = False
    """Whether an exact quota would leave it without effect."""
    needs_free_quota: ClassVar[bool] = False
    """Whether it may commit nothing at a step, so that any least number would contradict it."""
    needs_times: ClassVar[bool] = False
    """Whether it reads the diffusion times of a step."""
    revises: ClassVar[bool] = False
    """Whether it overwrites committed positions or returns them to mask."""
    needs_whole_window: ClassVar[bool] = False
    """Whether it reads proposals for committed positions although it does not revise."""

    def begin(self, query_BQ: Tensor) -> Tensor | None:
        """Its memory at the start of a window with these positions; None: nothing."""
        return None

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        """What to change after a forward."""
        ...
