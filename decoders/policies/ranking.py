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
    """The masked positions of highest score (float, [B, Q]): as many as the rule and its limit say, within the quota
    (None: the step's)."""
    quota = state.quota if quota is None else quota
    commit_BQ, _ = choose(score_BQ, state.masked_BQ, quota.at_least_B, quota.at_most_B, rule, limit)
    return Edit(commit_BQ)


def select_passing_first(state: StepState, passing_BQ: Tensor, log_prob_BQ: Tensor) -> Edit:
    """All masked positions that pass (bool, [B, Q]), within the quota: the most probable of them where they are too
    many, with the most probable others where they are too few."""
    return select_top(state, torch.where(passing_BQ, 1 + log_prob_BQ.exp(), log_prob_BQ), Rule.THRESHOLD, 0.5)


def keep_top_fraction(score_BQ: Tensor, ranked_BQ: Tensor, masked_share_B: Tensor) -> Tensor:
    """The ranked positions (bool, [B, Q]) of highest score (float, [B, Q]) but for a share of them (float, [B], from 0
    to 1), rounded down, which has the lowest: bool [B, Q]."""
    num_ranked_B = ranked_BQ.sum(1)
    # Shares come from a division: two fifths of five positions may fall short of two by a rounding error.
    num_kept_B = num_ranked_B - (num_ranked_B * masked_share_B + 1e-6).long()
    kept_BQ, _ = choose(score_BQ, ranked_BQ, num_kept_B, num_kept_B, Rule.TOP_K, 0.0)
    return kept_BQ
