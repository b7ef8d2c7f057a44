"""Tokens that a decode may not commit: nowhere, or not before a row has its least number of tokens.

Both are one vector of levels over the vocabulary, which stays in place from step to step, and one number a position.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..kernels.checks import check_integers
from ..kernels.statistics_request import Bans
from ..models.adapter import ModelSpec
from .canvas import Canvas

_EARLY, _EVERYWHERE = 1, 2


def ban_levels(spec: ModelSpec, banned_ids: Iterable[int], early_ids: Iterable[int]) -> Tensor | None:
    """The level of each token, int32 [V], where `banned_ids` are banned everywhere and `early_ids` before a row's
    `may_end_from`; None where there are neither. ValueError for what is no token id of the model."""
    banned, early = (check_integers("banned_ids", ids, at_most=spec.vocab_size - 1) for ids in (banned_ids, early_ids))
    if not banned and not early:
        return None
    level_V = torch.zeros(spec.vocab_size, dtype=torch.int32)
    level_V[early] = _EARLY
    level_V[banned] = _EVERYWHERE
    return level_V.to(spec.device)


def bans_at(level_V: Tensor, canvas: Canvas, query_BQ: Tensor) -> Bans:
    """The bans at positions query_BQ (int64 [B, Q]) of the canvas."""
    return Bans(level_V, (query_BQ >= canvas.may_end_from_B[:, None]).to(torch.int32))
