"""Token editing: draft at a low threshold, and replace tokens for which a better one is found (LLaDA2.1, arXiv
2602.08676)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...kernels.checks import integer_field, real_field
from ...kernels.token_statistics import Statistic
from ..proposal import Proposal
from ..step_state import StepState
from .base import Edit, Policy
from .ranking import select_passing_first


@dataclass(frozen=True)
class TokenEditing(Policy):
    """Commit masked positions whose proposed token has a probability above `draft_tau`, within the quota. Replace
    committed tokens by other tokens of a probability above `edit_tau`. Once nothing is masked, keep editing until a
    step changes nothing, for at most `num_passes` steps. Blocks that the windows keep open to revision are edited
    too."""

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
        """Number of steps that each row has taken without a mask."""
        return torch.zeros_like(query_BQ[:, 0])

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        probability_BQ = proposal.log_prob_BQ.exp()
        commit_BQ = select_passing_first(state, probability_BQ > self.draft_tau, proposal.log_prob_BQ).commit_BQ
        differs_BQ = proposal.token_BQ != state.canvas_token_BQ
        edit_BQ = state.revisable_BQ & differs_BQ & (probability_BQ > self.edit_tau)
        had_masks_B = state.masked_BQ.any(1)
        assert state.memory is not None
        num_steps_B = torch.where(had_masks_B, 0, state.memory + 1)
        unfinished_B = (had_masks_B | edit_BQ.any(1)) & (num_steps_B < self.num_passes)
        return Edit(commit_BQ | edit_BQ, unfinished_B=unfinished_B, memory=num_steps_B)
