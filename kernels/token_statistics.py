"""Token statistics: one pass over the vocabulary gives a position's token and everything a policy may rank it by.

    token            = argmax_v  z_v / tau + g_v           (g = 0 when tau = 0; Gumbel noise otherwise)
    log_prob         = log softmax(z / s)_token            (s = statistics temperature)
    margin           = p_(1) - p_(2)                       of softmax(z / s)
    entropy          = -sum_v p_v log p_v                  of softmax(z / s), in nats

top_k and top_p cut the tempered distribution before the draw (Hugging Face's convention: the token that crosses
top_p stays), top_k first. Ties take the lowest index.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .counter_rng import gumbel

Statistic = Literal["log_prob", "margin", "entropy"]


@dataclass(frozen=True)
class Draw:
    """How tokens are drawn and with which numbers. seed_B and position_BQ are int64; step counts from 0."""

    temperature: float
    seed_B: Tensor
    position_BQ: Tensor
    step: int
    top_k: int | None = None
    top_p: float | None = None


@dataclass(frozen=True)
class TokenStatistics:
    """Per queried position, [B, Q]: the token (int64) and the statistics asked for (float32; nats), else None."""

    token_BQ: Tensor
    log_prob_BQ: Tensor | None = None
    margin_BQ: Tensor | None = None
    entropy_BQ: Tensor | None = None


def token_statistics(
    logits_BQV: Tensor,
    *,
    wanted: frozenset[Statistic] = frozenset(),
    draw: Draw | None = None,
    statistics_temperature: float = 1.0,
) -> TokenStatistics:
    """Statistics of logits [B, Q, V] in plain PyTorch; greedy without a `draw`. Banned tokens hold -inf."""
    logits_BQV = logits_BQV.float()
    token_BQ = logits_BQV.argmax(-1) if draw is None else _drawn(logits_BQV, draw)
    if not wanted:
        return TokenStatistics(token_BQ)
    log_probs_BQV = (logits_BQV / statistics_temperature).log_softmax(-1)
    log_prob_BQ = margin_BQ = entropy_BQ = None
    if "log_prob" in wanted:
        log_prob_BQ = log_probs_BQV.gather(-1, token_BQ[..., None]).squeeze(-1)
    if "margin" in wanted:
        first_BQ, second_BQ = log_probs_BQV.topk(2, dim=-1).values.exp().unbind(-1)
        margin_BQ = first_BQ - second_BQ
    if "entropy" in wanted:
        entropy_BQ = torch.special.entr(log_probs_BQV.exp()).sum(-1)
    return TokenStatistics(token_BQ, log_prob_BQ, margin_BQ, entropy_BQ)


def _drawn(logits_BQV: Tensor, draw: Draw) -> Tensor:
    tempered_BQV = logits_BQV / draw.temperature
    if draw.top_k is not None or draw.top_p is not None:
        sorted_BQV, order_BQV = tempered_BQV.sort(dim=-1, descending=True, stable=True)
        rank_V = torch.arange(sorted_BQV.shape[-1], device=sorted_BQV.device)
        cut_BQV = rank_V >= (draw.top_k or len(rank_V))
        if draw.top_p is not None:
            probs_BQV = sorted_BQV.masked_fill(cut_BQV, -torch.inf).softmax(-1)
            cut_BQV = cut_BQV | (probs_BQV.cumsum(-1) - probs_BQV >= draw.top_p)
        cut_BQV = torch.zeros_like(order_BQV, dtype=torch.bool).scatter_(-1, order_BQV, cut_BQV.expand_as(order_BQV))
        tempered_BQV = tempered_BQV.masked_fill(cut_BQV, -torch.inf)
    noise_BQV = gumbel(draw.seed_B, draw.position_BQ, draw.step, logits_BQV.shape[-1])
    return (tempered_BQV + noise_BQV).argmax(-1)
