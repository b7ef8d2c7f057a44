"""P2: at each step keep the surest positions, decided or not, and mask the rest (path planning, arXiv 2502.03540)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...kernels.checks import check_real
from ...kernels.choose import choose
from ...kernels.commit_rules import TopK
from ...kernels.token_statistics import Statistic
from .base import Edit, Policy, Situation


@dataclass(frozen=True)
class PathPlanning(Policy):
    """Rank masked positions by their proposed token's log-probability, decided ones by `eta` times their own token's,
    and keep as many as the time says: with eta 0 decided tokens stay, larger ones return more of them to mask. The
    model is its own planner. Ends when its time does."""

    eta: float = 1.0
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob", "canvas_log_prob"})
    needs_free_quota: ClassVar[bool] = True
    needs_times: ClassVar[bool] = True
    revises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("eta", self.eta, at_least=0)

    def select(self, situation: Situation) -> Edit:
        proposal, eligible_BQ, revisable_BQ = situation.proposal, situation.eligible_BQ, situation.revisable_BQ
        assert proposal.log_prob_BQ is not None
        assert proposal.canvas_log_prob_BQ is not None
        assert revisable_BQ is not None
        assert situation.times is not None
        after = situation.times.after
        ranked_BQ = eligible_BQ | revisable_BQ
        # Not times -inf: 0 times that is no number.
        canvas_BQ = proposal.canvas_log_prob_BQ.clamp(min=torch.finfo(torch.float32).min)
        score_BQ = torch.where(eligible_BQ, proposal.log_prob_BQ, self.eta * canvas_BQ)
        num_ranked_B = ranked_BQ.sum(1)
        num_kept_B = num_ranked_B - (num_ranked_B * after).long()
        kept_BQ, _ = choose(score_BQ, ranked_BQ, num_kept_B, num_kept_B, TopK())
        return Edit(kept_BQ & eligible_BQ, revisable_BQ & ~kept_BQ, (after > 0).expand(len(num_kept_B)))
