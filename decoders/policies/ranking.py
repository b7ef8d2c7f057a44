"""Committing the best of the eligible positions, with ties going to the lowest position."""

from torch import Tensor

from ...kernels.choose import choose
from ...kernels.commit_rules import Rule, TopK
from .base import Edit, Situation

_AS_MANY_AS_ALLOWED = TopK()


def best(situation: Situation, score_BQ: Tensor, rule: Rule = _AS_MANY_AS_ALLOWED) -> Edit:
    """The eligible positions of highest score (float, [B, Q]): as many as the rule says, within the quota."""
    quota = situation.quota
    commit_BQ, _ = choose(score_BQ, situation.eligible_BQ, quota.at_least_B, quota.at_most_B, rule)
    return Edit(commit_BQ)
