"""Statistics of a vocabulary cut into tiles: what a program says of its tile, and how a row's tiles are merged.

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

from .counter_rng import gumbel_tile
from .dispatch import launch

_NUM_PARTIALS = 7


def per_row(value_BQ: Tensor | None, shape: torch.Size | None = None) -> Tensor | None:
    """A value of each row, expanded to `shape` where it is given, and packed: reshape alone may keep a stride."""
    if value_BQ is None:
        return None
    return (value_BQ if shape is None else value_BQ.expand(shape)).reshape(-1).contiguous()


def empty_partials(num_rows: int, num_tiles: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What tiles hand to the merge: seven floats and two token ids, each [., T, tiles]."""
    return (torch.empty((_NUM_PARTIALS, num_rows, num_tiles), dtype=torch.float32, device=device),
            torch.empty((2, num_rows, num_tiles), dtype=torch.int32, device=device))


def merged(partials: tuple[Tensor, Tensor], shape: torch.Size, vocab_size: int, inverse_statistics_temperature: float,
           *, has_canvas: bool, log_prob: bool, margin: bool, logit_gap: bool, entropy: bool, drawn: bool
           ) -> list[Tensor]:
    """The answers of all rows, each of `shape` [B, Q], from their tiles' partials."""
    _, num_rows, num_tiles = partials[0].shape
    device = partials[0].device
    token = torch.empty(shape, dtype=torch.int64, device=device)
    asked = (log_prob, has_canvas, margin, logit_gap, entropy)
    values = [torch.empty(shape, dtype=torch.float32, device=device) if wanted else None for wanted in asked]
    nonfinite = torch.empty(shape, dtype=torch.bool, device=device)
    few = num_tiles <= 32
    launch(_merge_kernel, (num_rows,), *partials, token, *values, nonfinite, inverse_statistics_temperature, vocab_size,
           num_rows, num_tiles, TILES=32 if few else max(2048, triton.next_power_of_2(num_tiles)), DRAWN=drawn,
           num_warps=1 if few else 8)
    return [token, *(value for value in values if value is not None), nonfinite]


_LOWEST = tl.constexpr(-3.4028234663852886e38)
_NO_INDEX = tl.constexpr(2**31 - 1)


@triton.jit
def log2_ratio(z, top, scale):
    """(z - top) log2(e) / s, NaN for infinite logits alone: 2^-200 is 0 in float32, and so is -200 times it."""
    return tl.maximum((z - tl.maximum(top, _LOWEST)) * scale, -200.0)


@triton.jit
def summarise(z, column, cut, seed, position, canvas, step, inverse_temperature, scale, group, floats, ids, partial,
              plane, inside, NORMALISE: tl.constexpr, MARGIN: tl.constexpr, ENTROPY: tl.constexpr):
    """Write the partials of a tile of logits z [N, M] (float32, -inf outside), `column` int32 [N]; everything else
    belongs to the M rows: `partial` is a row's place in a plane of partials, `inside` whether it exists."""
    # A maximum may pass over a NaN; an infinity in its place shows in the row's.
    z = tl.where(z == z, z, float("inf"))
    top = tl.max(z, 0)
    index = tl.min(tl.where(z == top[None, :], column[:, None], _NO_INDEX), 0)
    tl.store(floats + partial, top, mask=inside)
    tl.store(ids + partial, index, mask=inside)
    if NORMALISE:
        ratio = log2_ratio(z, top[None, :], scale)
        weight = tl.exp2(ratio)
        tl.store(floats + 2 * plane + partial, tl.sum(weight, 0), mask=inside)
        if ENTROPY:
            tl.store(floats + 3 * plane + partial, tl.sum(weight * ratio, 0), mask=inside)
    if MARGIN:
        second = tl.max(tl.where(column[:, None] == index[None, :], float("-inf"), z), 0)
        tl.store(floats + plane + partial, second, mask=inside)
    if seed is not None:
        key = z * inverse_temperature + gumbel_tile(seed, position, step, group)
        if cut is not None:
            key = tl.where(z < cut[None, :], float("-inf"), key)
        best = tl.max(key, 0)
        chosen = tl.min(tl.where(key == best[None, :], column[:, None], _NO_INDEX), 0)
        at_chosen = tl.max(tl.where(column[:, None] == chosen[None, :], z, float("-inf")), 0)
        tl.store(floats + 4 * plane + partial, best, mask=inside)
        tl.store(floats + 5 * plane + partial, at_chosen, mask=inside)
        tl.store(ids + plane + partial, chosen, mask=inside)
    if canvas is not None:
        at_canvas = tl.max(tl.where(column[:, None] == canvas[None, :], z, float("-inf")), 0)
        tl.store(floats + 6 * plane + partial, at_canvas, mask=inside)


@triton.jit(do_not_specialize=["num_rows", "num_tiles"])
def _merge_kernel(floats, ids, token, log_prob, canvas_log_prob, margin, logit_gap, entropy, nonfinite,
                  inverse_temperature, vocab_size, num_rows, num_tiles, TILES: tl.constexpr, DRAWN: tl.constexpr):
    row = tl.program_id(0)
    tile = tl.arange(0, TILES)
    exists = tile < num_tiles
    partial = row.to(tl.int64) * num_tiles + tile
    plane = (num_rows * num_tiles).to(tl.int64)
    tops = tl.load(floats + partial, mask=exists, other=float("-inf"))
    indices = tl.load(ids + partial, mask=exists, other=_NO_INDEX)
    top = tl.max(tops, 0)
    first = tl.min(tl.where(tops == top, indices, _NO_INDEX), 0)
    chosen, at_chosen = first, top
    if DRAWN:
        keys = tl.load(floats + 4 * plane + partial, mask=exists, other=float("-inf"))
        drawn = tl.load(ids + plane + partial, mask=exists, other=_NO_INDEX)
        chosen = tl.min(tl.where(keys == tl.max(keys, 0), drawn, _NO_INDEX), 0)
        at_drawn = tl.load(floats + 5 * plane + partial, mask=exists, other=float("-inf"))
        at_chosen = tl.max(tl.where(drawn == chosen, at_drawn, float("-inf")), 0)
    tl.store(nonfinite + row, tl.abs(top) == float("inf"))
    # Where NaN left nothing to choose, a token that exists all the same.
    tl.store(token + row, tl.minimum(chosen, vocab_size - 1).to(tl.int64))
    nothing = top == float("-inf")
    if margin is not None or logit_gap is not None:
        seconds = tl.load(floats + plane + partial, mask=exists, other=float("-inf"))
        second = tl.max(tl.where(indices == first, seconds, tops), 0)
        if logit_gap is not None:
            gap = (tl.maximum(top, _LOWEST) - second) * inverse_temperature
            tl.store(logit_gap + row, tl.where(nothing, 0.0, gap))
    if (log_prob is not None or canvas_log_prob is not None) or (margin is not None or entropy is not None):
        scale = inverse_temperature * 1.4426950408889634
        top = tl.maximum(top, _LOWEST)
        ratios = log2_ratio(tops, top, scale)
        totals = tl.load(floats + 2 * plane + partial, mask=exists, other=0)
        total = tl.where(nothing, 1.0, tl.sum(totals * tl.exp2(ratios), 0))
        log_total = tl.log(total)
        if log_prob is not None:
            value = (at_chosen - top) * inverse_temperature - log_total
            tl.store(log_prob + row, tl.where(nothing, float("-inf"), value))
        if canvas_log_prob is not None:
            at_canvas = tl.max(tl.load(floats + 6 * plane + partial, mask=exists, other=float("-inf")), 0)
            value = (at_canvas - top) * inverse_temperature - log_total
            tl.store(canvas_log_prob + row, tl.where(nothing, float("-inf"), value))
        if margin is not None:
            value = (1 - tl.exp2(log2_ratio(second, top, scale))) / total
            tl.store(margin + row, tl.where(nothing, 0.0, value))
        if entropy is not None:
            weighted = tl.load(floats + 3 * plane + partial, mask=exists, other=0)
            weighted = tl.sum((weighted + ratios * totals) * tl.exp2(ratios), 0)
            value = log_total - 0.6931471805599453 * weighted / total
            tl.store(entropy + row, tl.where(nothing, 0.0, value))
