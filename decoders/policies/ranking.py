"""Selection by rank: the top positions of each row, with ties going to the lowest position."""

import torch
from torch import Tensor

from ...kernels.choose import choose
from ...kernels.commit_rules import Rule
from ..schedules import Quota
from ..step_state import StepState
from .base import Edit


def select_top(state: StepState, score_BQ: Tensor, rule: Rule = Rule.TOP_K, limit: float = 0.0, *,
               quota: Quota | None = None) -> Edit:
    """Commit the masked positions of highest score (float, [B, Q]): as many as the rule and its limit allow, within the
    quota (None: the step's)."""
    quota = state.quota if quota is None else quota
    return Edit(choose(score_BQ, state.masked_BQ, quota.at_least_B, quota.at_most_B, rule, limit))


def select_passing_first(state: StepState, passing_BQ: Tensor, log_prob_BQ: Tensor) -> Edit:
    """Commit all masked positions that pass (bool, [B, Q]), within the quota: only the most probable of them above its
    maximum, the most probable others too below its minimum."""
    return select_top(state, torch.where(passing_BQ, 1 + log_prob_BQ.exp(), log_prob_BQ), Rule.THRESHOLD, 0.5)


def keep_top_fraction(score_BQ: Tensor, ranked_BQ: Tensor, masked_share_B: Tensor) -> Tensor:
    """The ranked positions (bool, [B, Q]) without those of lowest score (float, [B, Q]): a share masked_share_B of them
    (float, [B], from 0 to 1), rounded down, is left out. Bool [B, Q]."""
    num_ranked_B = ranked_BQ.sum(1)
    # Shares are quotients: 2/5 of 5 positions may fall short of 2 by a rounding error.
    num_kept_B = num_ranked_B - (num_ranked_B * masked_share_B + 1e-6).long()
    return choose(score_BQ, ranked_BQ, num_kept_B, num_kept_B, Rule.TOP_K, 0.0)
