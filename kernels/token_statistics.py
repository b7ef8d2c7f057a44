"""Token statistics: one pass over the vocabulary gives a position's token and everything a policy may rank it by.

    token            = argmax_v  z_v / tau + g_v           (z_v alone without a draw; g is Gumbel noise)
    log_prob         = log softmax(z / s)_token            (s = statistics temperature)
    canvas_log_prob  = log softmax(z / s)_(the token now on the canvas)
    margin           = p_(1) - p_(2)                       of softmax(z / s)
    logit_gap        = (z_(1) - z_(2)) / s
    entropy          = -sum_v p_v log p_v                  of softmax(z / s), in nats
    divergence       = KL(p || p of the step before)       of softmax(z / s), in nats
    nonfinite        = max_v z_v is NaN, inf or -inf       (a NaN counts as largest)

Temperatures count as 1e-30 below that and as 1e30 above: no logit over them leaves float32, the first is greedy and the
second uniform over the allowed tokens. top_k and top_p first find a cut-off logit of the tempered distribution, top_k
first (the token that crosses top_p stays, as in Hugging Face's convention); tokens below it are not drawn. Ties take
the lowest index. A row that allows nothing (all -inf) gives token 0, log-probability -inf, margin, logit gap and
entropy 0; one that allows a single token has an infinite gap.

Triton cuts each row into tiles (`vocabulary_tiles`) and gives every tile to a program, which keeps it in registers.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from .case import Cost
from .counter_rng import gumbel
from .dispatch import check_dtype, check_rank, check_shape, kernel, launch
from .logit_memories import Credit, Previous
from .vocabulary_tiles import empty_partials, merged, per_row, summarise

Statistic = Literal["log_prob", "canvas_log_prob", "margin", "logit_gap", "entropy", "divergence", "expert_rarity"]
_OF_THE_VOCABULARY = ("log_prob", "canvas_log_prob", "margin", "logit_gap", "entropy")


@dataclass(frozen=True)
class Draw:
    """How tokens are drawn and with which numbers: seed_B, position_BQ and step_B (from 0) are int64."""

    temperature: float
    seed_B: Tensor
    position_BQ: Tensor
    step_B: Tensor
    top_k: int | None = None
    top_p: float | None = None


@dataclass(frozen=True)
class Question:
    """What is asked of a distribution over the vocabulary: the statistics wanted, greedy without a `draw`. The canvas's
    tokens, int64 [B, Q], are needed for canvas_log_prob alone, the previous distributions for divergence alone; credit
    changes the logits before anything is asked of them."""

    wanted: frozenset[Statistic] = field(default_factory=frozenset)
    draw: Draw | None = None
    statistics_temperature: float = 1.0
    canvas_token_BQ: Tensor | None = None
    previous: Previous | None = None
    credit: Credit | None = None

    @property
    def needs_logits(self) -> bool:
        """Whether all logits of a position must exist at once."""
        cuts = self.draw is not None and (self.draw.top_k is not None or self.draw.top_p is not None)
        return cuts or self.previous is not None or self.credit is not None


@dataclass(frozen=True)
class TokenStatistics:
    """Per queried position, [B, Q]: the token (int64) and the statistics asked for (float32; nats), else None.
    expert_rarity is no matter of the vocabulary: a model with experts may add it (`models.ExpertAware`). nonfinite
    (bool) marks logits of which nothing can be said: one is NaN or inf, or all are -inf; None says that nobody
    looked."""

    token_BQ: Tensor
    log_prob_BQ: Tensor | None = None
    canvas_log_prob_BQ: Tensor | None = None
    margin_BQ: Tensor | None = None
    logit_gap_BQ: Tensor | None = None
    entropy_BQ: Tensor | None = None
    divergence_BQ: Tensor | None = None
    expert_rarity_BQ: Tensor | None = None
    nonfinite_BQ: Tensor | None = None


def token_statistics(logits_BQV: Tensor, question: Question) -> TokenStatistics:
    """Answer the question about logits [B, Q, V] of any float dtype, in float32 (float64 stays). Banned tokens hold
    -inf; where others are not finite, or none is allowed, the answer says so and nothing else."""
    if question.credit is not None:
        logits_BQV = question.credit.fused(logits_BQV)
    found = answer(statistics_of_logits(logits_BQV, cut_off(logits_BQV, question.draw), *terms(question)), question)
    if "divergence" not in question.wanted:
        return found
    if question.previous is None:
        raise ValueError("divergence is wanted with previous=None: give the distributions of the step before")
    return replace(found, divergence_BQ=question.previous.divergence(
        logits_BQV, bounded(question.statistics_temperature)))


def bounded(temperature: float) -> float:
    """The temperature as it counts: from 1e-30 to 1e30."""
    return min(max(temperature, 1e-30), 1e30)


Terms = tuple[Tensor | None, Tensor | None, Tensor | None, float, Tensor | None, float, bool, bool, bool, bool]


def terms(question: Question) -> Terms:
    """A question in the plain types that operators take."""
    draw, wanted = question.draw, question.wanted
    if "canvas_log_prob" in wanted and question.canvas_token_BQ is None:
        raise ValueError("canvas_log_prob is wanted of canvas_token_BQ=None: give the canvas's tokens")
    canvas_BQ = question.canvas_token_BQ if "canvas_log_prob" in wanted else None
    asked = (canvas_BQ, 1 / bounded(question.statistics_temperature), "log_prob" in wanted, "margin" in wanted,
             "logit_gap" in wanted, "entropy" in wanted)
    if draw is None:
        return None, None, None, 1.0, *asked
    return draw.seed_B, draw.position_BQ, draw.step_B, 1 / bounded(draw.temperature), *asked


def answer(found: list[Tensor], question: Question) -> TokenStatistics:
    """The operators' token, wanted statistics and flag, which come in the order of `TokenStatistics`, by name."""
    token_BQ, *values = found
    names = [name for name in _OF_THE_VOCABULARY if name in question.wanted] + ["nonfinite"]
    return TokenStatistics(token_BQ, **{f"{name}_BQ": value for name, value in zip(names, values, strict=True)})


def cut_off(logits_BQV: Tensor, draw: Draw | None) -> Tensor | None:
    """The least logit that may be drawn, float32 [B, Q]; None where nothing is cut."""
    if draw is None or (draw.top_k is None and (draw.top_p is None or draw.top_p >= 1)):
        return None
    sorted_BQV = logits_BQV.float().sort(dim=-1, descending=True).values
    num_kept = sorted_BQV.shape[-1] if draw.top_k is None else min(draw.top_k, sorted_BQV.shape[-1])
    if draw.top_p is None or draw.top_p >= 1:
        return sorted_BQV[..., num_kept - 1]
    # In float64: a float32 sum of a large vocabulary drifts past 1, and would cut the tail.
    probs_BQV = (sorted_BQV[..., :num_kept] / bounded(draw.temperature)).double().softmax(-1)
    num_kept_BQ = (probs_BQV.cumsum(-1) - probs_BQV < draw.top_p).sum(-1).clamp(min=1)
    return sorted_BQV.gather(-1, num_kept_BQ[..., None] - 1).squeeze(-1)


def reference(
    logits_BQV: Tensor, cut_BQ: Tensor | None, seed_B: Tensor | None, position_BQ: Tensor | None, step_B: Tensor | None,
    inverse_temperature: float, canvas_BQ: Tensor | None, inverse_statistics_temperature: float, log_prob: bool,
    margin: bool, logit_gap: bool, entropy: bool,
) -> list[Tensor]:
    """The token, int64 [B, Q], of log_prob, canvas_log_prob (where canvas_BQ is given), margin, logit_gap and entropy
    those that are asked for, and the flag nonfinite."""
    if logits_BQV.dtype != torch.float64:
        logits_BQV = logits_BQV.float()
    if seed_B is None or position_BQ is None or step_B is None:
        token_BQ = logits_BQV.argmax(-1)
    else:
        key_BQV = logits_BQV * inverse_temperature + gumbel(seed_B, position_BQ, step_B, logits_BQV.shape[-1])
        if cut_BQ is not None:
            key_BQV = key_BQV.masked_fill(logits_BQV < cut_BQ[..., None], -torch.inf)
        token_BQ = key_BQV.argmax(-1)
    # Of NaN and inf argmax takes one, so that the logit of the token tells of all.
    best_BQ = logits_BQV.gather(-1, token_BQ[..., None]).squeeze(-1)
    found, nonfinite_BQ = [token_BQ], ~best_BQ.isfinite()
    if not (log_prob or margin or logit_gap or entropy or canvas_BQ is not None):
        return [*found, nonfinite_BQ]
    log_probs_BQV = (logits_BQV * inverse_statistics_temperature).log_softmax(-1)
    nothing_BQ = best_BQ == -torch.inf
    for asked, chosen_BQ in ((log_prob, token_BQ), (canvas_BQ is not None, canvas_BQ)):
        if asked and chosen_BQ is not None:
            value_BQ = log_probs_BQV.gather(-1, chosen_BQ[..., None]).squeeze(-1)
            found.append(value_BQ.masked_fill(nothing_BQ, -torch.inf))
    if margin:
        first_BQ, second_BQ = log_probs_BQV.topk(2, dim=-1).values.exp().unbind(-1)
        found.append((first_BQ - second_BQ).masked_fill(nothing_BQ, 0))
    if logit_gap:
        first_BQ, second_BQ = logits_BQV.topk(2, dim=-1).values.unbind(-1)
        found.append(((first_BQ - second_BQ) * inverse_statistics_temperature).masked_fill(nothing_BQ, 0))
    if entropy:
        found.append(torch.special.entr(log_probs_BQV.exp()).sum(-1).masked_fill(nothing_BQ, 0))
    return [*found, nonfinite_BQ]


_TILE = 8192


def check_question(num_rows: int, num_queried: int, vocab_size: int, seed_B: Tensor | None, position_BQ: Tensor | None,
                   step_B: Tensor | None, canvas_BQ: Tensor | None, *, compares: bool) -> None:
    """Refuse what does not belong to so many rows, positions and tokens, of which there must be two to be compared."""
    if vocab_size < 1 + compares:
        raise ValueError(f"{vocab_size} tokens: must be at least {1 + compares} for what is asked")
    check_shape("seed_B", seed_B, num_rows)
    check_shape("position_BQ", position_BQ, num_rows, num_queried)
    check_shape("canvas_BQ", canvas_BQ, num_rows, num_queried)
    check_shape("step_B", step_B, num_rows)
    for name, value in (("seed_B", seed_B), ("position_BQ", position_BQ), ("canvas_BQ", canvas_BQ),
                        ("step_B", step_B)):
        check_dtype(name, value, torch.int64)


def _check(
    logits_BQV: Tensor, cut_BQ: Tensor | None, seed_B: Tensor | None, position_BQ: Tensor | None, step_B: Tensor | None,
    inverse_temperature: float, canvas_BQ: Tensor | None, inverse_statistics_temperature: float, log_prob: bool,
    margin: bool, logit_gap: bool, entropy: bool,
) -> None:
    check_rank("logits_BQV", logits_BQV, 3)
    num_rows, num_queried, vocab_size = logits_BQV.shape
    check_question(num_rows, num_queried, vocab_size, seed_B, position_BQ, step_B, canvas_BQ,
                   compares=margin or logit_gap)
    check_shape("cut_BQ", cut_BQ, num_rows, num_queried)


@kernel(reference, check=_check)
def statistics_of_logits(
    logits_BQV: Tensor, cut_BQ: Tensor | None, seed_B: Tensor | None, position_BQ: Tensor | None, step_B: Tensor | None,
    inverse_temperature: float, canvas_BQ: Tensor | None, inverse_statistics_temperature: float, log_prob: bool,
    margin: bool, logit_gap: bool, entropy: bool,
) -> list[Tensor]:
    num_queried, vocab_size = logits_BQV.shape[1:]
    logits_TV = logits_BQV.reshape(-1, vocab_size)
    tile = min(_TILE, max(128, triton.next_power_of_2(vocab_size)))
    num_tiles = triton.cdiv(vocab_size, tile)
    partials = empty_partials(len(logits_TV), num_tiles, logits_TV.device)
    shape = logits_BQV.shape[:2]
    canvas_T = per_row(canvas_BQ, shape)
    launch(_tile_kernel, (len(logits_TV), num_tiles), logits_TV, *partials, per_row(cut_BQ), per_row(seed_B, shape[:1]),
           per_row(position_BQ, shape), canvas_T, per_row(step_B, shape[:1]), inverse_temperature,
           inverse_statistics_temperature * math.log2(math.e), vocab_size, num_queried, logits_TV.stride(0),
           logits_TV.stride(1), TILE=tile, NORMALISE=log_prob or margin or entropy or canvas_T is not None,
           MARGIN=margin or logit_gap, ENTROPY=entropy, num_warps=max(1, tile // 1024))
    return merged(partials, shape, vocab_size, inverse_statistics_temperature, has_canvas=canvas_T is not None,
                  log_prob=log_prob, margin=margin, logit_gap=logit_gap, entropy=entropy, drawn=seed_B is not None)


@triton.jit(do_not_specialize=["num_queried"])
def _tile_kernel(logits, floats, ids, cut, seed, position, canvas, step, inverse_temperature, scale, vocab_size,
                 num_queried, stride_row, stride_column, TILE: tl.constexpr, NORMALISE: tl.constexpr,
                 MARGIN: tl.constexpr, ENTROPY: tl.constexpr):
    row = tl.program_id(0) + tl.arange(0, 1)
    tile = tl.program_id(1)
    num_tiles = tl.num_programs(1)
    column = tile * TILE + tl.arange(0, TILE)
    group = tile * (TILE // 4) + tl.arange(0, TILE // 4)
    start = logits + tl.program_id(0).to(tl.int64) * stride_row
    z = tl.load(start + column[:, None] * stride_column, mask=column[:, None] < vocab_size, other=float("-inf"))
    summarise(z.to(tl.float32), column, None if cut is None else tl.load(cut + row),
              None if seed is None else tl.load(seed + row // num_queried),
              None if position is None else tl.load(position + row).to(tl.int32),
              None if canvas is None else tl.load(canvas + row),
              None if step is None else tl.load(step + row // num_queried).to(tl.int32), inverse_temperature, scale,
              group, floats, ids,
              row.to(tl.int64) * num_tiles + tile,
              (tl.num_programs(0) * num_tiles).to(tl.int64), row >= 0, NORMALISE, MARGIN, ENTROPY)


@dataclass(frozen=True)
class TokenStatisticsCase:
    """`rows` positions of a vocabulary: greedy, or drawn where a temperature is given."""

    rows: int
    vocab_size: int
    wanted: tuple[Statistic, ...] = ("log_prob",)
    temperature: float | None = None

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Question]:
        logits_BQV = 4 * torch.randn(1, self.rows, self.vocab_size, dtype=dtype, device=device)
        draw = None
        if self.temperature is not None:
            seed_B = torch.full((1,), 2**33 + 5, dtype=torch.int64, device=device)
            draw = Draw(self.temperature, seed_B, torch.arange(self.rows, device=device)[None],
                        torch.ones(1, dtype=torch.int64, device=device))
        return logits_BQV, Question(frozenset(self.wanted), draw)

    def run(self, logits_BQV: Tensor, question: Question) -> tuple[Tensor, ...]:
        found = token_statistics(logits_BQV, question)
        return tuple(value for value in vars(found).values() if value is not None)

    def reference(self, logits_BQV: Tensor, question: Question) -> tuple[Tensor, ...]:
        return tuple(reference(logits_BQV, None, *terms(question)))

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost(self.rows * (self.vocab_size * dtype.itemsize + 9 + 4 * len(self.wanted)))
