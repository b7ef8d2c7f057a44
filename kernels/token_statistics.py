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
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from .case import Case, Cost, tensors_of
from .counter_rng import gumbel, key_words_of, load_key
from .dispatch import kernel, launch
from .drawn_token import CHUNK, LARGEST_INVERSE_TEMPERATURE, ScoredDraw
from .statistics_request import SamplingParams, Statistic, StatisticsRequest, TokenStatistics, bounded
from .tensor_checks import assert_rows_contiguous, check_rank, check_shape
from .vocabulary_tiles import empty_partials, merge, per_row, summarise


def token_statistics(logits_BQV: Tensor, request: StatisticsRequest) -> TokenStatistics:
    """The statistics of logits [B, Q, V] of any float dtype, in float32 (float64 stays). Banned tokens hold -inf, or
    are named by the request's bans. Where others are not finite, or none is allowed, nonfinite says so and nothing else
    holds."""
    if request.bans is not None:
        request.check(*logits_BQV.shape)
        logits_BQV = request.bans.applied(logits_BQV)
    if request.credit is not None:
        logits_BQV = request.credit.fused(logits_BQV)
    found = statistics_of_logits(logits_BQV, request, cut_off(logits_BQV, request.sampling))
    if "divergence" not in request.wanted:
        return found
    if request.previous is None:
        raise ValueError("divergence is wanted with previous=None: give the distributions of the step before")
    return replace(found, divergence_BQ=request.previous.divergence(
        logits_BQV, bounded(request.statistics_temperature)))


def cut_off(logits_BQV: Tensor, sampling: SamplingParams | None) -> Tensor | None:
    """The least logit that may be drawn, float32 [B, Q]; None where nothing is cut."""
    if sampling is None or (sampling.top_k is None and (sampling.top_p is None or sampling.top_p >= 1)):
        return None
    sorted_BQV = logits_BQV.float().sort(dim=-1, descending=True).values
    num_kept = sorted_BQV.shape[-1] if sampling.top_k is None else min(sampling.top_k, sorted_BQV.shape[-1])
    if sampling.top_p is None or sampling.top_p >= 1:
        return sorted_BQV[..., num_kept - 1]
    # In float64: a float32 sum of a large vocabulary drifts past 1, and would cut the tail.
    probs_BQV = (sorted_BQV[..., :num_kept] / bounded(sampling.temperature)).double().softmax(-1)
    num_kept_BQ = (probs_BQV.cumsum(-1) - probs_BQV < sampling.top_p).sum(-1).clamp(min=1)
    return sorted_BQV.gather(-1, num_kept_BQ[..., None] - 1).squeeze(-1)


def reference(logits_BQV: Tensor, request: StatisticsRequest, cut_BQ: Tensor | None) -> TokenStatistics:
    """The token and all wanted statistics but divergence, which is known apart. Tokens whose logit is below cut_BQ
    (float32 [B, Q]) are not drawn."""
    if logits_BQV.dtype != torch.float64:
        logits_BQV = logits_BQV.float()
    token_BQ = _tokens(logits_BQV, request, cut_BQ)
    # Of NaN and inf argmax takes one, so that the logit of the token tells of all.
    best_BQ = logits_BQV.gather(-1, token_BQ[..., None]).squeeze(-1)
    found, wanted = {"nonfinite_BQ": ~best_BQ.isfinite()}, request.wanted
    nothing_BQ, log_probs_BQV = best_BQ == -torch.inf, logits_BQV
    if request.needs_normaliser:
        log_probs_BQV = (logits_BQV * request.inverse_statistics_temperature).log_softmax(-1)
    for name, chosen_BQ in (("log_prob", token_BQ), ("canvas_log_prob", request.canvas_token_BQ)):
        if name in wanted and chosen_BQ is not None:
            value_BQ = log_probs_BQV.gather(-1, chosen_BQ[..., None]).squeeze(-1)
            found[f"{name}_BQ"] = value_BQ.masked_fill(nothing_BQ, -torch.inf)
    if "margin" in wanted:
        first_BQ, second_BQ = log_probs_BQV.topk(2, dim=-1).values.exp().unbind(-1)
        found["margin_BQ"] = (first_BQ - second_BQ).masked_fill(nothing_BQ, 0)
    if "logit_gap" in wanted:
        first_BQ, second_BQ = logits_BQV.topk(2, dim=-1).values.unbind(-1)
        gap_BQ = (first_BQ - second_BQ) * request.inverse_statistics_temperature
        found["logit_gap_BQ"] = gap_BQ.masked_fill(nothing_BQ, 0)
    if "entropy" in wanted:
        found["entropy_BQ"] = torch.special.entr(log_probs_BQV.exp()).sum(-1).masked_fill(nothing_BQ, 0)
    return TokenStatistics(token_BQ, **found)


def _tokens(logits_BQV: Tensor, request: StatisticsRequest, cut_BQ: Tensor | None) -> Tensor:
    sampling = request.sampling
    if sampling is None:
        return logits_BQV.argmax(-1)
    noise_BQV = gumbel(sampling.seed_B, sampling.position_BQ, sampling.step_B, logits_BQV.shape[-1])
    key_BQV = logits_BQV * request.inverse_temperature + noise_BQV
    if cut_BQ is not None:
        key_BQV = key_BQV.masked_fill(logits_BQV < cut_BQ[..., None], -torch.inf)
    return key_BQV.argmax(-1)


def _check(logits_BQV: Tensor, request: StatisticsRequest, cut_BQ: Tensor | None) -> None:
    check_rank("logits_BQV", logits_BQV, 3)
    request.check(*logits_BQV.shape)
    check_shape("cut_BQ", cut_BQ, *logits_BQV.shape[:2])


_TILE = 8192


@kernel(reference, check=_check)
def statistics_of_logits(logits_BQV: Tensor, request: StatisticsRequest, cut_BQ: Tensor | None) -> TokenStatistics:
    num_rows, num_queried, vocab_size = logits_BQV.shape
    logits_TV = logits_BQV.reshape(-1, vocab_size)
    assert_rows_contiguous(logits_BQV=logits_TV)
    tile = _tile_of(vocab_size)
    num_tiles = triton.cdiv(vocab_size, tile)
    partials = empty_partials(len(logits_TV), num_tiles, logits_TV.device)
    found = TokenStatistics.empty(request, (num_rows, num_queried), logits_TV.device)
    cut_T = per_row(cut_BQ)
    scored = _scored_draw(logits_TV, request, cut_T)
    launch(_tile_kernel, (len(logits_TV), num_tiles), logits_TV, *partials, scored and scored.scores, cut_T,
           *per_row_inputs(request), request.inverse_temperature,
           request.inverse_statistics_temperature * math.log2(math.e), vocab_size, num_queried, logits_TV.stride(0),
           TILE=tile, NORMALISE=request.needs_normaliser, SECOND=request.needs_second,
           ENTROPY="entropy" in request.wanted, ALIKE=scored is not None and request.needs_normaliser and
           request.inverse_temperature == request.inverse_statistics_temperature,
           VECTOR=scored.vector if scored else 0, num_warps=max(1, tile // (2048 if scored else 1024)))
    merge(partials, found, vocab_size, request.inverse_statistics_temperature, drawn=request.sampling is not None,
          scored=scored)
    return found


def _tile_of(vocab_size: int) -> int:
    return min(_TILE, max(128, triton.next_power_of_2(vocab_size)))


def _scored_draw(logits_TV: Tensor, request: StatisticsRequest, cut_T: Tensor | None) -> ScoredDraw | None:
    """Room for the scores of a draw; None where nothing is drawn, or from the keys of all tokens."""
    sampling = request.sampling
    if sampling is None or request.inverse_temperature > LARGEST_INVERSE_TEMPERATURE:
        return None
    num_rows, vocab_size = logits_TV.shape
    tile = _tile_of(vocab_size)
    scores = torch.empty((num_rows, triton.cdiv(vocab_size, tile), tile // CHUNK), dtype=torch.int32,
                         device=logits_TV.device)
    key_words, position_T, _, step_B = per_row_inputs(request)
    assert key_words is not None
    assert position_T is not None
    assert step_B is not None
    return ScoredDraw(scores, logits_TV, cut_T, key_words, position_T, step_B, sampling.position_BQ.shape[1],
                      request.inverse_temperature, tile)


def per_row_inputs(request: StatisticsRequest) -> tuple[Tensor | None, ...]:
    """What a tile's program reads beside logits: key words [2 B], positions and the canvas's tokens [T], steps [B]."""
    sampling = request.sampling
    canvas_T = per_row(request.canvas_token_BQ) if "canvas_log_prob" in request.wanted else None
    if sampling is None:
        return None, None, canvas_T, None
    return key_words_of(sampling.seed_B), per_row(sampling.position_BQ), canvas_T, per_row(sampling.step_B)


@triton.jit(do_not_specialize=["num_queried"])
def _tile_kernel(logits_ptr, floats_ptr, ids_ptr, scores_ptr, cut_ptr, key_ptr, position_ptr, canvas_ptr, step_ptr,
                 inverse_temperature, scale, vocab_size, num_queried, stride_row, TILE: tl.constexpr,
                 NORMALISE: tl.constexpr, SECOND: tl.constexpr, ENTROPY: tl.constexpr, ALIKE: tl.constexpr,
                 VECTOR: tl.constexpr):
    row = tl.program_id(0) + tl.arange(0, 1)
    tile = tl.program_id(1)
    num_tiles = tl.num_programs(1)
    column = tile * TILE + tl.arange(0, TILE)
    group = tile * (TILE // 4) + tl.arange(0, TILE // 4)
    logits_ptr += tl.program_id(0).to(tl.int64) * stride_row
    z = tl.load(logits_ptr + column[:, None], mask=column[:, None] < vocab_size, other=float("-inf"))
    summarise(z.to(tl.float32), column, None if cut_ptr is None else tl.load(cut_ptr + row),
              None if key_ptr is None else load_key(key_ptr, row // num_queried, None),
              None if position_ptr is None else tl.load(position_ptr + row).to(tl.int32),
              None if canvas_ptr is None else tl.load(canvas_ptr + row),
              None if step_ptr is None else tl.load(step_ptr + row // num_queried).to(tl.int32), inverse_temperature,
              scale, group, floats_ptr, ids_ptr, scores_ptr, row.to(tl.int64) * num_tiles + tile,
              (tl.num_programs(0) * num_tiles).to(tl.int64), row >= 0, NORMALISE, SECOND, ENTROPY, ALIKE, VECTOR)


@dataclass(frozen=True)
class TokenStatisticsCase(Case):
    """`rows` positions of a vocabulary: greedy, or drawn where a temperature is given."""

    rows: int
    vocab_size: int
    wanted: tuple[Statistic, ...] = ("log_prob",)
    temperature: float | None = None

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, StatisticsRequest]:
        logits_BQV = 4 * torch.randn(1, self.rows, self.vocab_size, dtype=dtype, device=device)
        return logits_BQV, random_request(self.rows, self.wanted, self.temperature, device)

    def run(self, logits_BQV: Tensor, request: StatisticsRequest) -> tuple[Tensor, ...]:
        return tuple(tensors_of(token_statistics(logits_BQV, request)))

    def reference(self, logits_BQV: Tensor, request: StatisticsRequest) -> tuple[Tensor, ...]:
        return tuple(tensors_of(reference(logits_BQV, request, None)))

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost(self.rows * (self.vocab_size * dtype.itemsize + 9 + 4 * len(self.wanted)))


def random_request(rows: int, wanted: tuple[Statistic, ...], temperature: float | None, device: torch.device
                   ) -> StatisticsRequest:
    """The wanted statistics of [1, rows] positions: of the most probable tokens, or drawn at a temperature."""
    if temperature is None:
        return StatisticsRequest(frozenset(wanted))
    seed_B = torch.full((1,), 2**33 + 5, dtype=torch.int64, device=device)
    position_BQ, step_B = torch.arange(rows, device=device)[None], torch.ones(1, dtype=torch.int64, device=device)
    return StatisticsRequest(frozenset(wanted), SamplingParams(temperature, seed_B, position_BQ, step_B))
