"""Prophet: commit everything at once when the answer has converged (early answer convergence, arXiv 2508.19982)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...kernels.checks import real_field
from ...kernels.token_statistics import Statistic
from ..proposal import Proposal
from ..schedules import Quota
from ..step_state import StepState
from .base import Edit, Policy
from .ranking import select_top


@dataclass(frozen=True)
class Prophet(Policy):
    """Commit the quota's minimum, most probable first. Commit all masks of the window once the mean gap between their
    two best logits is at least `early` in the first third of the window's time (before 0.33), `middle` in the second
    (before 0.67), `late` in the last.

    The published code averages over an answer whose place is given, counts the steps of all windows and then fills the
    whole canvas. Approximate: tokens committed at once are not conditioned on one another."""

    early: float = 7.5
    middle: float = 5.0
    late: float = 2.5
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob", "logit_gap"})
    needs_open_quota: ClassVar[bool] = True
    needs_times: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("early", "middle", "late"):
            real_field(self, name, at_least=0)

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        progress_B = 1 - state.times.after
        needed_B = torch.where(progress_B < 0.33, self.early, torch.where(progress_B < 0.67, self.middle, self.late))
        gap_B = proposal.logit_gap_BQ.masked_fill(~state.masked_BQ, 0).sum(1) / state.num_masked_B.clamp(min=1)
        num_B = torch.where(gap_B >= needed_B, state.quota.at_most_B, state.quota.at_least_B)
        return select_top(state, proposal.log_prob_BQ, quota=Quota(num_B, num_B))
