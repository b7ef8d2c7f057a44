"""The interface of a policy: which positions a step commits."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from ...kernels.token_statistics import Statistic
from ..proposal import Proposal
from ..step_state import StepState


@dataclass(frozen=True)
class Edit:
    """Changes at the window's positions, bool [B, Q] each. commit_BQ: masked positions to commit, within the quota, and
    revisable ones to overwrite, both with the proposed tokens. remask_BQ: revisable positions to remask (None: none).

    unfinished_B (bool [B]) marks rows that need another step even if none of their positions is masked (None: no row).
    `memory` is passed to the next step."""

    commit_BQ: Tensor
    remask_BQ: Tensor | None = None
    unfinished_B: Tensor | None = None
    memory: Tensor | None = None


class Policy(Protocol):
    """A subclass states what differs from these defaults. Its options are fields, which the policy's YAML sets and
    `kernels.checks` checks; one that ranks positions by a score leaves masks and quota to `ranking.select_top`."""

    statistics: ClassVar[frozenset[Statistic]] = frozenset()
    """Statistics that the sampler must compute, of those that `Proposal` lists; the proposal has no others."""
    needs_open_quota: ClassVar[bool] = False
    """Whether an exact quota would make it ineffective."""
    needs_free_quota: ClassVar[bool] = False
    """Whether it may commit nothing at a step, so that it cannot meet a minimum quota."""
    needs_times: ClassVar[bool] = False
    """Whether it reads the diffusion times of a step."""
    revises: ClassVar[bool] = False
    """Whether it overwrites or remasks committed positions."""
    needs_whole_window: ClassVar[bool] = False
    """Whether it reads proposals for committed positions although it does not revise."""

    def begin(self, query_BQ: Tensor) -> Tensor | None:
        """Its memory at the start of a window with these positions; None if it has none."""
        return None

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        """The edit that follows a forward."""
        ...
