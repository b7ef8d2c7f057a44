"""Token editing: draft boldly, and correct what has become unlikely (LLaDA2.1, arXiv 2602.08676)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...kernels.checks import integer_field, real_field
from ...kernels.token_statistics import Statistic
from .base import Edit, Policy, Situation
from .ranking import preferred


@dataclass(frozen=True)
class TokenEditing(Policy):
    """Commit masked positions whose proposed token has a probability above `draft_tau`, within the quota; replace
    decided tokens by other ones of a probability above `edit_tau`. Once nothing is masked, edit on for at most
    `num_passes` steps, until one changes nothing. Windows that keep blocks open to revision extend the editing to
    these."""

    draft_tau: float
    edit_tau: float
    num_passes: int = 16
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob"})
    needs_open_quota: ClassVar[bool] = True
    revises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        real_field(self, "draft_tau", at_least=0, at_most=1)
        real_field(self, "edit_tau", at_least=0, at_most=1)
        integer_field(self, "num_passes", at_least=0)

    def begin(self, query_BQ: Tensor) -> Tensor:
        """How many steps each row has taken without a mask."""
        return torch.zeros_like(query_BQ[:, 0])

    def select(self, situation: Situation) -> Edit:
        log_prob_BQ, revisable_BQ = situation.proposal.log_prob_BQ, situation.revisable_BQ
        assert log_prob_BQ is not None
        assert revisable_BQ is not None
        assert situation.state is not None
        probability_BQ = log_prob_BQ.exp()
        drafted_BQ = preferred(situation, probability_BQ > self.draft_tau, log_prob_BQ).commit_BQ
        differs_BQ = situation.proposal.token_BQ != situation.canvas.tokens_BS.gather(1, situation.query_BQ)
        edited_BQ = revisable_BQ & differs_BQ & (probability_BQ > self.edit_tau)
        had_masks_B = situation.eligible_BQ.any(1)
        num_passes_B = torch.where(had_masks_B, 0, situation.state + 1)
        goes_on_B = (had_masks_B | edited_BQ.any(1)) & (num_passes_B < self.num_passes)
        return Edit(drafted_BQ | edited_BQ, unfinished_B=goes_on_B, state=num_passes_B)
