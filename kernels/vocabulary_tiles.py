"""Statistics of a vocabulary cut into tiles: the partials of a tile, and the merge of a row's tiles.

    tile     m = max z,  i = argmax,  n = second,  Z = sum 2^d,  W = sum d 2^d,   d = (z - m) log2(e) / s
    merge    Z = sum_j Z_j 2^(d_j),  W = sum_j (W_j + d_j Z_j) 2^(d_j),           d_j = (m_j - m) log2(e) / s
             entropy = ln Z - ln(2) W / Z,   log_prob = (z_token - m) / s - ln Z,   logit gap = (m - n) / s

W is kept relative to the maximum: unshifted it loses five digits at logits near 60. Tiles have a fixed size, whatever
the number of rows, so the bits of a row's result do not depend on the other rows.
"""

# Triton's annotations do not tell tiles from numbers and tuples.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false
import torch
import triton
import triton.language as tl
from torch import Tensor

from .counter_rng import gumbel_of, load_key, word_tile
from .dispatch import launch
from .drawn_token import CHUNK, ScoredDraw, chunk_scores, drawn_token
from .statistics_request import TokenStatistics

_NUM_PARTIALS = 7


def per_row(value: Tensor | None) -> Tensor | None:
    """A value of each row, packed: reshape alone may keep a stride."""
    return None if value is None else value.reshape(-1).contiguous()


def empty_partials(num_rows: int, num_tiles: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What tiles hand to the merge: seven floats and two token ids, each [., T, tiles]."""
    return (torch.empty((_NUM_PARTIALS, num_rows, num_tiles), dtype=torch.float32, device=device),
            torch.empty((2, num_rows, num_tiles), dtype=torch.int32, device=device))


def merge(partials: tuple[Tensor, Tensor], found: TokenStatistics, vocab_size: int,
          inverse_statistics_temperature: float, *, drawn: bool, scored: ScoredDraw | None = None) -> None:
    """Write what there is room for in `found`, from the rows' partials; a token drawn by scores, from these."""
    _, num_rows, num_tiles = partials[0].shape
    few = num_tiles <= 32
    scored_arguments = (None,) * 9 if scored is None else scored.arguments
    launch(_merge_kernel, (num_rows,), *partials, found.token_BQ, found.log_prob_BQ, found.canvas_log_prob_BQ,
           found.margin_BQ, found.logit_gap_BQ, found.entropy_BQ, found.nonfinite_BQ, inverse_statistics_temperature,
           *scored_arguments, vocab_size, num_rows, num_tiles,
           TILES=32 if few else max(2048, triton.next_power_of_2(num_tiles)), DRAWN=drawn,
           TILE=scored.tile if scored else 0, VECTOR=scored.vector if scored else 0, num_warps=1 if few else 8)


_CHUNK = tl.constexpr(CHUNK)
_LOWEST = tl.constexpr(-3.4028234663852886e38)
_NO_INDEX = tl.constexpr(2**31 - 1)


_LEAST_LOG = tl.constexpr(-200.0)  # 2^-200 is 0 in float32, and so is -200 times it


@triton.jit
def log2_ratio(z, top, scale):
    """(z - top) log2(e) / s, NaN for infinite logits alone."""
    return tl.maximum((z - tl.maximum(top, _LOWEST)) * scale, _LEAST_LOG)


@triton.jit
def summarise(z, column, cut, key_words, position, canvas, step, inverse_temperature, scale, group, floats_ptr, ids_ptr,
              scores_ptr, partial, plane, inside, NORMALISE: tl.constexpr, SECOND: tl.constexpr, ENTROPY: tl.constexpr,
              ALIKE: tl.constexpr = False, VECTOR: tl.constexpr = 0):
    """Write the partials of a tile of logits z [N, M] (float32, -inf outside), `column` int32 [N]; everything else
    belongs to the M rows: `partial` is a row's place in a plane of partials, `inside` whether it exists.

    Where there is room for scores, of one row a tile, these are written in place of a drawn token; ALIKE says that
    statistics have the draw's temperature."""
    # A maximum may pass over a NaN, the sum of weights does not; else an infinity in its place shows in the row's.
    if not NORMALISE:
        z = tl.where(z == z, z, float("inf"))
    top = tl.max(z, 0)
    from_top = z - tl.maximum(top, _LOWEST)[None, :]
    if SECOND or key_words is None:
        index = tl.min(tl.where(z == top[None, :], column[:, None], _NO_INDEX), 0)
        tl.store(ids_ptr + partial, index, mask=inside)
    if NORMALISE:
        ratio = from_top * scale
        weight = tl.exp2(ratio)
        total = tl.sum(weight, 0)
        tl.store(floats_ptr + 2 * plane + partial, total, mask=inside)
        if ENTROPY:
            tl.store(floats_ptr + 3 * plane + partial, tl.sum(weight * tl.maximum(ratio, _LEAST_LOG), 0), mask=inside)
        tl.store(floats_ptr + partial, tl.where(total == total, top, float("inf")), mask=inside)
    else:
        tl.store(floats_ptr + partial, top, mask=inside)
    if SECOND:
        second = tl.max(tl.where(column[:, None] == index[None, :], float("-inf"), z), 0)
        tl.store(floats_ptr + plane + partial, second, mask=inside)
    if scores_ptr is not None:
        if not ALIKE:
            weight = tl.exp2(from_top * (inverse_temperature * 1.4426950408889634))
        if cut is not None:
            weight = tl.where(z < cut[None, :], 0.0, weight)
        scores = chunk_scores(weight, word_tile(key_words, position, step, group), VECTOR)
        tl.store(scores_ptr + partial * scores.shape[0] + tl.arange(0, scores.shape[0]), scores)
        tl.store(ids_ptr + plane + partial, tl.max(scores, 0))
    elif key_words is not None:
        key = z * inverse_temperature + gumbel_of(word_tile(key_words, position, step, group))
        if cut is not None:
            key = tl.where(z < cut[None, :], float("-inf"), key)
        best = tl.max(key, 0)
        chosen = tl.min(tl.where(key == best[None, :], column[:, None], _NO_INDEX), 0)
        at_chosen = tl.max(tl.where(column[:, None] == chosen[None, :], z, float("-inf")), 0)
        tl.store(floats_ptr + 4 * plane + partial, best, mask=inside)
        tl.store(floats_ptr + 5 * plane + partial, at_chosen, mask=inside)
        tl.store(ids_ptr + plane + partial, chosen, mask=inside)
    if canvas is not None:
        at_canvas = tl.max(tl.where(column[:, None] == canvas[None, :], z, float("-inf")), 0)
        tl.store(floats_ptr + 6 * plane + partial, at_canvas, mask=inside)


@triton.jit(do_not_specialize=["num_queried", "num_rows", "num_tiles"])
def _merge_kernel(floats_ptr, ids_ptr, token_ptr, log_prob_ptr, canvas_log_prob_ptr, margin_ptr, logit_gap_ptr,
                  entropy_ptr, nonfinite_ptr, inverse_temperature, scores_ptr, logits_ptr, cut_ptr, key_ptr,
                  position_ptr, step_ptr, stride_row, num_queried, inverse_draw_temperature, vocab_size, num_rows,
                  num_tiles, TILES: tl.constexpr, DRAWN: tl.constexpr, TILE: tl.constexpr, VECTOR: tl.constexpr):
    row = tl.program_id(0)
    tile = tl.arange(0, TILES)
    exists = tile < num_tiles
    partial = row.to(tl.int64) * num_tiles + tile
    plane = (num_rows * num_tiles).to(tl.int64)
    tops = tl.load(floats_ptr + partial, mask=exists, other=float("-inf"))
    top = tl.max(tops, 0)
    if not DRAWN or (margin_ptr is not None or logit_gap_ptr is not None):
        indices = tl.load(ids_ptr + partial, mask=exists, other=_NO_INDEX)
        first = tl.min(tl.where(tops == top, indices, _NO_INDEX), 0)
    if not DRAWN:
        chosen, at_chosen = first, top
    elif scores_ptr is not None:
        own, request = row + tl.arange(0, 1), row // num_queried + tl.arange(0, 1)
        chosen, at_chosen = drawn_token(
            logits_ptr + row.to(tl.int64) * stride_row, ids_ptr + plane + row.to(tl.int64) * num_tiles,
            scores_ptr + row.to(tl.int64) * num_tiles * (TILE // _CHUNK), tops, tile, exists,
            None if cut_ptr is None else tl.load(cut_ptr + own), load_key(key_ptr, request, None),
            tl.load(position_ptr + own).to(tl.int32), tl.load(step_ptr + request).to(tl.int32),
            inverse_draw_temperature, vocab_size, TILE, VECTOR)
    else:
        keys = tl.load(floats_ptr + 4 * plane + partial, mask=exists, other=float("-inf"))
        drawn = tl.load(ids_ptr + plane + partial, mask=exists, other=_NO_INDEX)
        chosen = tl.min(tl.where(keys == tl.max(keys, 0), drawn, _NO_INDEX), 0)
        at_drawn = tl.load(floats_ptr + 5 * plane + partial, mask=exists, other=float("-inf"))
        at_chosen = tl.max(tl.where(drawn == chosen, at_drawn, float("-inf")), 0)
    tl.store(nonfinite_ptr + row, tl.abs(top) == float("inf"))
    # Where NaN left nothing to choose, a token that exists all the same.
    tl.store(token_ptr + row, tl.minimum(chosen, vocab_size - 1).to(tl.int64))
    nothing = top == float("-inf")
    if margin_ptr is not None or logit_gap_ptr is not None:
        seconds = tl.load(floats_ptr + plane + partial, mask=exists, other=float("-inf"))
        second = tl.max(tl.where(indices == first, seconds, tops), 0)
        if logit_gap_ptr is not None:
            gap = (tl.maximum(top, _LOWEST) - second) * inverse_temperature
            tl.store(logit_gap_ptr + row, tl.where(nothing, 0.0, gap))
    if (log_prob_ptr is not None or canvas_log_prob_ptr is not None) or (
            margin_ptr is not None or entropy_ptr is not None):
        scale = inverse_temperature * 1.4426950408889634
        top = tl.maximum(top, _LOWEST)
        ratios = log2_ratio(tops, top, scale)
        totals = tl.load(floats_ptr + 2 * plane + partial, mask=exists, other=0)
        total = tl.where(nothing, 1.0, tl.sum(totals * tl.exp2(ratios), 0))
        log_total = tl.log(total)
        if log_prob_ptr is not None:
            value = (at_chosen - top) * inverse_temperature - log_total
            tl.store(log_prob_ptr + row, tl.where(nothing, float("-inf"), value))
        if canvas_log_prob_ptr is not None:
            at_canvas = tl.max(tl.load(floats_ptr + 6 * plane + partial, mask=exists, other=float("-inf")), 0)
            value = (at_canvas - top) * inverse_temperature - log_total
            tl.store(canvas_log_prob_ptr + row, tl.where(nothing, float("-inf"), value))
        if margin_ptr is not None:
            value = (1 - tl.exp2(log2_ratio(second, top, scale))) / total
            tl.store(margin_ptr + row, tl.where(nothing, 0.0, value))
        if entropy_ptr is not None:
            weighted = tl.load(floats_ptr + 3 * plane + partial, mask=exists, other=0)
            weighted = tl.sum((weighted + ratios * totals) * tl.exp2(ratios), 0)
            value = log_total - 0.6931471805599453 * weighted / total
            tl.store(entropy_ptr + row, tl.where(nothing, 0.0, value))
