"""Committing the best of the eligible positions, with ties going to the lowest position."""

import torch
from torch import Tensor

from ...kernels.choose import choose
from ...kernels.commit_rules import Rule, Threshold, TopK
from .base import Edit, Situation

_AS_MANY_AS_ALLOWED = TopK()
_PREFERRED = Threshold(0.5)


def best(situation: Situation, score_BQ: Tensor, rule: Rule = _AS_MANY_AS_ALLOWED) -> Edit:
    """The eligible positions of highest score (float, [B, Q]): as many as the rule says, within the quota."""
    quota = situation.quota
    commit_BQ, _ = choose(score_BQ, situation.eligible_BQ, quota.at_least_B, quota.at_most_B, rule)
    return Edit(commit_BQ)


def preferred(situation: Situation, passing_BQ: Tensor, log_prob_BQ: Tensor) -> Edit:
    """All eligible positions that pass (bool, [B, Q]), within the quota: the most probable of them where they are too
    many, with the most probable others where they are too few."""
    return best(situation, torch.where(passing_BQ, 1 + log_prob_BQ.exp(), log_prob_BQ), _PREFERRED)
