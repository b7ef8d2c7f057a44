"""Attention of a few to many queries over a KV cache: what a denoising step, an autoregressive step and a prefill need.

    o_f = sum_j p_j v_j,   p = softmax_j(q_f . k_j / sqrt(D))   over the keys j that query f sees

A query sees the keys first <= j < stop of its own interval: all (no interval), causal (stop = position + 1),
block-causal (stop = end of the block), sliding window (first = position - window + 1). A list of key tiles per row and
key/value head restricts that further (MAGE, arXiv 2602.14209). PyTorch takes any mask. A query that sees nothing gives
zeros.

The G query heads of a key/value head and the F queries are packed into the rows of one tile, so keys and values are
read once for all of them (GQA packing). Up to 64 queries the keys are split (FlashDecoding), into as many parts as fill
a card; under `batch_invariant` splits have a fixed size, whatever the batch and the context. They are merged in a fixed
order.
"""

# Triton's annotations do not tell tiles from numbers, nor what a specialisation leaves out.
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportPossiblyUnboundVariable=false
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .attention_cpu import attention_on_cpu
from .attention_tiles import split_size, tiles_of, tiles_that_fill
from .autocast import autocast_dtype
from .case import Case, Cost
from .dispatch import kernel, launch, num_pipeline_stages
from .key_ranges import KEY_TILE, KeyRanges, VisibleKeys, mask_of_heads
from .tensor_checks import assert_contiguous

_MOST_SPLIT_QUERIES = 64


LARGEST_WIDTH = 256
"""Of a head, for which there are tiles."""


def reference(q_BFHD: Tensor, k_BCKD: Tensor, v_BCKD: Tensor, visible: VisibleKeys) -> Tensor:
    """Attention of q [B, F, H, D] over keys and values [B, C, K, D] (float; H a multiple of K, D at most 256), of which
    each query sees what `visible` says: [B, F, H, D]. Tensors are of one dtype, except under autocast, where PyTorch
    takes any; on a CPU every query must then see a key. Differentiable in PyTorch."""
    dtype = autocast_dtype(q_BFHD) or q_BFHD.dtype
    q_BHFD, k_BKCD, v_BKCD = (x.transpose(1, 2).to(dtype) for x in (q_BFHD, k_BCKD, v_BCKD))
    # A mask would keep PyTorch from its flash kernels.
    mask = None if visible.is_causal else mask_of_heads(visible, q_BFHD.shape[2])
    out_BHFD = F.scaled_dot_product_attention(q_BHFD, k_BKCD, v_BKCD, mask, is_causal=visible.is_causal,
                                              enable_gqa=q_BFHD.shape[2] != k_BCKD.shape[2])
    if mask is not None:
        out_BHFD = out_BHFD.masked_fill(~mask.any(-1, keepdim=True), 0)
    return out_BHFD.transpose(1, 2)


def _check(q_BFHD: Tensor, k_BCKD: Tensor, v_BCKD: Tensor, visible: VisibleKeys) -> None:
    batch, num_queries, num_heads, head_width = q_BFHD.shape
    num_keys, num_kv_heads = k_BCKD.shape[1:3]
    if k_BCKD.shape != v_BCKD.shape or k_BCKD.shape[::3] != (batch, head_width):
        raise ValueError(f"q {[*q_BFHD.shape]}, k {[*k_BCKD.shape]}, v {[*v_BCKD.shape]}: must be of one B and D, keys "
                         "and values of one shape")
    if num_heads % num_kv_heads or head_width > LARGEST_WIDTH:
        raise ValueError(f"{num_heads} query heads, {num_kv_heads} key/value heads, width {head_width}: the first must "
                         f"be a multiple of the second, and heads at most {LARGEST_WIDTH} wide")
    dtypes = q_BFHD.dtype, k_BCKD.dtype, v_BCKD.dtype
    if len(set(dtypes)) > 1 and autocast_dtype(q_BFHD) is None:
        raise ValueError(f"q, k and v of {', '.join(map(str, dtypes))}: must be of one dtype")
    visible.check(batch, num_queries, num_keys, num_kv_heads)


@kernel(reference, check=_check, cpu=attention_on_cpu)
def attention(q_BFHD: Tensor, k_BCKD: Tensor, v_BCKD: Tensor, visible: VisibleKeys) -> Tensor:
    ranges = visible.ranges
    batch, num_queries, num_heads, head_width = q_BFHD.shape
    num_keys, num_kv_heads = k_BCKD.shape[1:3]
    assert q_BFHD.dtype == k_BCKD.dtype == v_BCKD.dtype
    assert_contiguous(q_BFHD=q_BFHD, first_BF=ranges.first_BF, stop_BF=ranges.stop_BF, tiles_BKN=ranges.tiles_BKN,
                      num_tiles_BK=ranges.num_tiles_BK)
    # A row of a store may be longer than the context that is seen of it.
    assert k_BCKD.stride()[1:] == (num_kv_heads * head_width, head_width, 1), (
        f"k_BCKD with strides {k_BCKD.stride()}: each row must be contiguous")
    assert v_BCKD.stride() == k_BCKD.stride(), f"v_BCKD with strides {v_BCKD.stride()}: must be those of k_BCKD"
    num_rows, num_pairs = num_queries * (num_heads // num_kv_heads), batch * num_kv_heads
    listed = num_keys if ranges.tiles_BKN is None else ranges.tiles_BKN.shape[-1] * KEY_TILE
    if num_queries <= _MOST_SPLIT_QUERIES:
        tiles = tiles_that_fill(num_pairs, num_rows, listed, head_width, q_BFHD.element_size())
        split = split_size(num_pairs * triton.cdiv(num_rows, tiles.rows), num_kv_heads, listed)
    else:
        tiles = tiles_of(num_rows, head_width, q_BFHD.element_size())
        split = max(KEY_TILE, listed)
    num_splits = max(1, triton.cdiv(listed, split))
    out_BFHD = torch.empty(q_BFHD.shape, dtype=q_BFHD.dtype, device=q_BFHD.device)
    partial, log_sum = out_BFHD, None
    if num_splits > 1:
        partial = torch.empty((num_splits, *q_BFHD.shape), dtype=torch.float32, device=q_BFHD.device)
        log_sum = torch.empty((num_splits, *q_BFHD.shape[:3]), dtype=torch.float32, device=q_BFHD.device)
    # Rows and heads in the first dimension: the others end at 65,535, which a batch may exceed.
    grid = (triton.cdiv(num_rows, tiles.rows) * num_pairs, num_splits)
    launch(_attention_kernel, grid, q_BFHD, k_BCKD, v_BCKD, ranges.first_BF, ranges.stop_BF, ranges.tiles_BKN,
           ranges.num_tiles_BK, partial, log_sum, head_width**-0.5 * math.log2(math.e), batch, num_queries, num_keys,
           num_kv_heads, listed // KEY_TILE, split, k_BCKD.stride(0), _row_stride(ranges.first_BF, batch),
           _row_stride(ranges.stop_BF, batch), GROUP=num_heads // num_kv_heads, WIDTH=head_width,
           WIDTH_TILE=max(16, triton.next_power_of_2(head_width)), ROWS=tiles.rows, KEYS=tiles.keys,
           LIST_TILE=KEY_TILE, num_warps=tiles.num_warps, num_stages=num_pipeline_stages(tiles.num_stages))
    if log_sum is not None:
        num_merged, width_tile = batch * num_queries * num_heads, triton.next_power_of_2(head_width)
        launch(_merge_kernel, (num_merged,), partial, log_sum, out_BFHD, num_merged, num_splits, WIDTH=head_width,
               WIDTH_TILE=width_tile, SPLITS=max(32, triton.next_power_of_2(num_splits)), PART=32,
               num_warps=max(1, width_tile // 64))
    return out_BFHD


def _row_stride(bound_BF: Tensor | None, batch: int) -> int:
    """From one row's bounds to the next's; all rows may share one row."""
    return 0 if bound_BF is None or len(bound_BF) < batch else bound_BF.shape[1]


@triton.jit(do_not_specialize=["batch", "num_queries", "num_keys", "num_listed", "split"])
def _attention_kernel(
    q_ptr, k_ptr, v_ptr, first_ptr, stop_ptr, tiles_ptr, num_tiles_ptr, out_ptr, log_sum_ptr, scale, batch, num_queries,
    num_keys, num_kv_heads, num_listed, split, stride_kv_row, stride_first_row, stride_stop_row, GROUP: tl.constexpr,
    WIDTH: tl.constexpr, WIDTH_TILE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, LIST_TILE: tl.constexpr,
):
    row_tiles = tl.cdiv(num_queries * GROUP, ROWS)
    pair = tl.program_id(0) // row_tiles
    # The last rows first: under a causal mask they see the most keys.
    row = (row_tiles - 1 - tl.program_id(0) % row_tiles) * ROWS + tl.arange(0, ROWS)
    b = (pair // num_kv_heads).to(tl.int64)
    kv_head = pair % num_kv_heads
    query = row // GROUP
    head = kv_head * GROUP + row % GROUP
    inside = row < num_queries * GROUP
    d = tl.arange(0, WIDTH_TILE)
    key = tl.arange(0, KEYS)
    q_row = (b * num_queries + query) * (num_kv_heads * GROUP) + head
    q_tile = tl.load(q_ptr + q_row[:, None] * WIDTH + d[None, :], mask=inside[:, None] & (d[None, :] < WIDTH), other=0)
    # The keys that the tile's rows see, and the part of them that is this split's. Up to `full` every row sees all.
    low = tl.program_id(1) * split
    high = tl.minimum(low + split, num_keys)
    row_first = None
    row_stop = None
    if first_ptr is not None:
        row_first = tl.load(first_ptr + b * stride_first_row + query, mask=inside, other=2147483647)
        row_first = tl.minimum(tl.maximum(row_first, 0), num_keys).to(tl.int32)
        if tiles_ptr is None:
            low = tl.maximum(low, tl.min(row_first, 0) // KEYS * KEYS)
    if stop_ptr is not None:
        row_stop = tl.load(stop_ptr + b * stride_stop_row + query, mask=inside, other=0)
        row_stop = tl.minimum(tl.maximum(row_stop, 0), num_keys).to(tl.int32)
        if tiles_ptr is None:
            high = tl.minimum(high, tl.max(row_stop, 0))
    if tiles_ptr is not None:
        tiles_ptr += pair.to(tl.int64) * num_listed
        high = tl.minimum(low + split, tl.load(num_tiles_ptr + pair) * LIST_TILE)
    full = low
    if (first_ptr is None) and (tiles_ptr is None):
        full = high
        if stop_ptr is not None:
            full = tl.minimum(high, tl.min(tl.where(inside, row_stop, num_keys), 0))
        full = low + tl.maximum(full - low, 0) // KEYS * KEYS
    stride_key = num_kv_heads * WIDTH
    k_ptrs = k_ptr + b * stride_kv_row + kv_head * WIDTH + key[None, :] * stride_key + d[:, None]
    v_ptrs = v_ptr + b * stride_kv_row + kv_head * WIDTH + key[:, None] * stride_key + d[None, :]

    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, WIDTH_TILE), tl.float32)
    if (first_ptr is None) and (tiles_ptr is None):
        for place in range(low, full, KEYS):
            begin = place
            top, total, mixed = _attended(q_tile, k_ptrs, v_ptrs, begin, None, None, None, stride_key, scale, top,
                                          total, mixed, WIDTH)
    for place in range(full, high, KEYS):
        begin = place
        if tiles_ptr is not None:
            begin = tl.load(tiles_ptr + place // LIST_TILE) * LIST_TILE + place % LIST_TILE
        top, total, mixed = _attended(q_tile, k_ptrs, v_ptrs, begin, num_keys, row_first, row_stop, stride_key, scale,
                                      top, total, mixed, WIDTH)

    mixed = mixed / tl.where(total == 0, 1.0, total)[:, None]
    part = ((tl.program_id(1) * batch + b) * num_queries + query).to(tl.int64) * (num_kv_heads * GROUP) + head
    tl.store(out_ptr + part[:, None] * WIDTH + d[None, :], mixed.to(out_ptr.dtype.element_ty),
             mask=inside[:, None] & (d[None, :] < WIDTH))
    if log_sum_ptr is not None:
        seen = tl.where(total == 0, float("-inf"), top + tl.log2(tl.where(total == 0, 1.0, total)))
        tl.store(log_sum_ptr + part, seen, mask=inside)


@triton.jit
def _attended(q_tile, k_ptrs, v_ptrs, begin, num_keys, row_first, row_stop, stride_key, scale, top, total, mixed,
              WIDTH: tl.constexpr):
    """The running maximum, sum and mixture with the keys from `begin` on; num_keys None: every row sees them all."""
    d = tl.arange(0, k_ptrs.shape[0])
    at = begin + tl.arange(0, k_ptrs.shape[1])
    k_mask = d[:, None] < WIDTH
    v_mask = d[None, :] < WIDTH
    if num_keys is not None:
        k_mask &= at[None, :] < num_keys
        v_mask &= at[:, None] < num_keys
    k_tile = tl.load(k_ptrs + begin.to(tl.int64) * stride_key, mask=k_mask, other=0)
    v_tile = tl.load(v_ptrs + begin.to(tl.int64) * stride_key, mask=v_mask, other=0)
    score = tl.dot(q_tile, k_tile, input_precision="ieee") * scale
    if num_keys is not None:
        visible = at[None, :] < num_keys
        if row_first is not None:
            visible &= at[None, :] >= row_first[:, None]
        if row_stop is not None:
            visible &= at[None, :] < row_stop[:, None]
        score = tl.where(visible, score, float("-inf"))
    new_top = tl.maximum(top, tl.max(score, 1))
    # A row that has seen nothing yet has no maximum to subtract.
    base = tl.where(new_top == float("-inf"), 0.0, new_top)
    weight = tl.exp2(score - base[:, None])
    keep = tl.exp2(top - base)
    total = total * keep + tl.sum(weight, 1)
    mixed = tl.dot(weight.to(v_tile.dtype), v_tile, mixed * keep[:, None], input_precision="ieee")
    return new_top, total, mixed


@triton.jit(do_not_specialize=["num_rows", "num_splits"])
def _merge_kernel(partial_ptr, log_sum_ptr, out_ptr, num_rows, num_splits, WIDTH: tl.constexpr,
                  WIDTH_TILE: tl.constexpr, SPLITS: tl.constexpr, PART: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, WIDTH_TILE)
    split = tl.arange(0, SPLITS)
    sums = tl.load(log_sum_ptr + split * num_rows.to(tl.int64) + row, mask=split < num_splits, other=float("-inf"))
    top = tl.max(sums, 0)
    base = tl.where(top == float("-inf"), 0.0, top)
    total = tl.sum(tl.exp2(sums - base), 0)
    mixed = tl.zeros((WIDTH_TILE,), tl.float32)
    for first in range(0, SPLITS, PART):
        part = first + tl.arange(0, PART)
        exists = part < num_splits
        place = part * num_rows.to(tl.int64) + row
        weight = tl.exp2(tl.load(log_sum_ptr + place, mask=exists, other=float("-inf")) - base)
        parts = tl.load(partial_ptr + place[:, None] * WIDTH + d[None, :], mask=exists[:, None] & (d < WIDTH)[None, :],
                        other=0)
        mixed += tl.sum(parts * weight[:, None], 0)
    mixed = mixed / tl.where(total == 0, 1.0, total)
    tl.store(out_ptr + row * WIDTH + d, mixed.to(out_ptr.dtype.element_ty), mask=d < WIDTH)


@dataclass(frozen=True)
class AttentionCase(Case):
    """`queries` at the end of a `context` of keys: all see everything, or, with `causal`, what stands before them. With
    `listed_tiles` every key/value head reads that many tiles, chosen at random."""

    batch: int
    queries: int
    heads: int
    kv_heads: int
    head_width: int
    context: int
    causal: bool = False
    listed_tiles: int | None = None
    run = staticmethod(attention)
    reference = staticmethod(reference)

    @property
    def needs_hgmma(self) -> bool:
        return self.queries * self.heads // self.kv_heads >= 64

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, KeyRanges]:
        q_BFHD = torch.randn(self.batch, self.queries, self.heads, self.head_width, dtype=dtype, device=device)
        k_BCKD, v_BCKD = torch.randn(2, self.batch, self.context, self.kv_heads, self.head_width, dtype=dtype,
                                     device=device)
        stop_BF = tiles_BKN = num_tiles_BK = None
        if self.causal:
            stop_BF = torch.arange(self.context - self.queries, self.context, device=device)[None] + 1
        if self.listed_tiles is not None:
            rank = torch.rand(self.batch, self.kv_heads, -(-self.context // KEY_TILE), device=device).argsort(-1)
            tiles_BKN = rank[..., : self.listed_tiles].to(torch.int32).contiguous()
            num_tiles_BK = torch.full((self.batch, self.kv_heads), self.listed_tiles, dtype=torch.int32, device=device)
        return q_BFHD, k_BCKD, v_BCKD, KeyRanges(self.context, None, stop_BF, tiles_BKN, num_tiles_BK)

    def cost(self, dtype: torch.dtype) -> Cost:
        num_keys = self.context if self.listed_tiles is None else min(self.context, self.listed_tiles * KEY_TILE)
        num_pairs = self.queries * num_keys - (self.queries * (self.queries - 1) // 2 if self.causal else 0)
        elements = 2 * num_keys * self.kv_heads + 2 * self.queries * self.heads
        return Cost(self.batch * elements * self.head_width * dtype.itemsize,
                    4 * self.batch * self.heads * self.head_width * num_pairs)
