"""What stands between the query/key/value product and attention, in one program: norms, RoPE, the write to the cache.

    h    = x / sqrt(mean(x^2) + eps) * weight         queries and keys, per head, where weights are given
    q, k = h cos_p + swap(h) sin_p                     on a head's first R dimensions; the others stay
    keys[slot], values[slot] = k, v                    where slot >= 0

swap exchanges the halves of the R dimensions and sin carries the sign of the first half: rotate-half RoPE (Su et al.,
arXiv 2104.09864) with the model's table, in part where R < D. In a decoder that rewrites its block each step, what must
not be kept has a slot below zero. A program takes some heads of one token; each byte moves once.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .case import Cost
from .dispatch import check_dtype, kernel, launch

_NUMBERS_PER_PROGRAM = 2048


def reference(qkv_BFHD: Tensor, positions_BF: Tensor, cos_LR: Tensor, sin_LR: Tensor, q_weight_D: Tensor | None,
              k_weight_D: Tensor | None, eps: float, num_heads: int, keys_SKD: Tensor, values_SKD: Tensor,
              slot_T: Tensor) -> Tensor:
    """Queries [B, F, H, D] in qkv_BFHD's dtype; the keys and values of token b F + f go to slot_T[b F + f].

    qkv_BFHD holds H = num_heads query heads, then K key and K value heads of each token: float [B, F, H + 2 K, D].
    positions_BF (int64, [B, F] or [1, F]) are rows of the table cos_LR, sin_LR (float32, R even and at most D, or 0).
    The weights come both or not at all. keys_SKD and values_SKD (float [S, K, D], of any strides) are written in place
    at slot_T (int64 [B F], distinct where not negative); nothing is written for a negative slot."""
    rope = cos_LR[positions_BF].unsqueeze(2), sin_LR[positions_BF].unsqueeze(2)
    q_BFHD, k_BFKD, v_BFKD = rotated(qkv_BFHD, rope, q_weight_D, k_weight_D, eps, num_heads)
    _store(k_BFKD.flatten(0, 1), v_BFKD.flatten(0, 1), keys_SKD, values_SKD, slot_T)
    return q_BFHD.to(qkv_BFHD.dtype).contiguous()


def rotated(qkv_BFHD: Tensor, rope: tuple[Tensor, Tensor], q_weight_D: Tensor | None, k_weight_D: Tensor | None,
            eps: float, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a product, normalised and rotated: what the reference does before it stores. `rope`
    holds cos and sin of the fed positions, each [B, F, 1, R]; queries and keys are of the wider of its dtype and the
    product's."""
    num_kv_heads = (qkv_BFHD.shape[2] - num_heads) // 2
    qk_BFHD, v_BFKD = qkv_BFHD.split((num_heads + num_kv_heads, num_kv_heads), dim=2)
    if q_weight_D is not None and k_weight_D is not None:
        q_BFHD, k_BFKD = qk_BFHD.split((num_heads, num_kv_heads), dim=2)
        qk_BFHD = torch.cat((F.rms_norm(q_BFHD, q_weight_D.shape, q_weight_D, eps),
                             F.rms_norm(k_BFKD, k_weight_D.shape, k_weight_D, eps)), dim=2)
    cos_BF1R, sin_BF1R = rope
    width = cos_BF1R.shape[-1]
    if width:
        turned, kept = qk_BFHD[..., :width], qk_BFHD[..., width:]
        turned = torch.addcmul(turned * cos_BF1R, turned.roll(width // 2, -1), sin_BF1R)
        qk_BFHD = torch.cat((turned, kept), dim=-1) if kept.shape[-1] else turned
    q_BFHD, k_BFKD = qk_BFHD.split((num_heads, num_kv_heads), dim=2)
    return q_BFHD, k_BFKD, v_BFKD


def _store(k_TKD: Tensor, v_TKD: Tensor, keys_SKD: Tensor, values_SKD: Tensor, slot_T: Tensor) -> None:
    """The write in PyTorch, without looking at a slot on the host."""
    if not slot_T.numel():
        return
    # A token without a slot writes what the token of the highest slot writes, to the same place; where no token has a
    # slot, all write back what the first slot holds.
    source_T = torch.where(slot_T < 0, slot_T.argmax(), torch.arange(len(slot_T), device=slot_T.device))
    place_T = slot_T[source_T].clamp(min=0)
    none = slot_T.amax() < 0
    for new_TKD, stored_SKD in ((k_TKD, keys_SKD), (v_TKD, values_SKD)):
        written_TKD = torch.where(none, stored_SKD[place_T], new_TKD[source_T].to(stored_SKD.dtype))
        stored_SKD.index_copy_(0, place_T, written_TKD)


def _check(qkv_BFHD: Tensor, positions_BF: Tensor, cos_LR: Tensor, sin_LR: Tensor, q_weight_D: Tensor | None,
           k_weight_D: Tensor | None, eps: float, num_heads: int, keys_SKD: Tensor, values_SKD: Tensor,
           slot_T: Tensor) -> None:
    (num_rows, num_fed, num_all_heads, width), held = qkv_BFHD.shape, keys_SKD.shape
    if num_all_heads != num_heads + 2 * held[1] or held[2:] != (width,) or values_SKD.shape != held:
        raise ValueError(f"qkv_BFHD {[*qkv_BFHD.shape]} with {num_heads} query heads, keys_SKD {[*held]}, values_SKD "
                         f"{[*values_SKD.shape]}: must be [B, F, H + 2 K, D] and twice [S, K, D]")
    if positions_BF.shape not in ((num_rows, num_fed), (1, num_fed)) or slot_T.shape != (num_rows * num_fed,):
        raise ValueError(f"positions_BF {[*positions_BF.shape]}, slot_T {[*slot_T.shape]} for {num_rows} rows of "
                         f"{num_fed}: must be [B, F] or [1, F], and [B F]")
    check_dtype("positions_BF", positions_BF, torch.int64)
    check_dtype("slot_T", slot_T, torch.int64)
    if cos_LR.ndim != 2 or cos_LR.shape != sin_LR.shape or cos_LR.shape[1] % 2 or cos_LR.shape[1] > width:
        raise ValueError(f"cos_LR {[*cos_LR.shape]}, sin_LR {[*sin_LR.shape]}: must be alike, of an even number of "
                         f"angles up to the heads' width, {width}")
    for name, weight_D in (("q_weight_D", q_weight_D), ("k_weight_D", k_weight_D)):
        if (weight_D is None) != (q_weight_D is None) or (weight_D is not None and weight_D.shape != (width,)):
            raise ValueError(f"{name} {None if weight_D is None else [*weight_D.shape]}: must be [{width}], as the "
                             "other one, or None both")


@kernel(reference, check=_check, mutates=("keys_SKD", "values_SKD"))
def rotate_and_store(qkv_BFHD: Tensor, positions_BF: Tensor, cos_LR: Tensor, sin_LR: Tensor, q_weight_D: Tensor | None,
                     k_weight_D: Tensor | None, eps: float, num_heads: int, keys_SKD: Tensor, values_SKD: Tensor,
                     slot_T: Tensor) -> Tensor:
    (num_rows, num_fed, _, width), num_kv_heads = qkv_BFHD.shape, keys_SKD.shape[1]
    half = cos_LR.shape[1] // 2
    q_BFHD = torch.empty((num_rows, num_fed, num_heads, width), dtype=qkv_BFHD.dtype, device=qkv_BFHD.device)
    positions_BF = positions_BF.expand(num_rows, -1)
    half_block, kept_block = (triton.next_power_of_2(extent) if extent else 0 for extent in (half, width - 2 * half))
    heads = max(1, _NUMBERS_PER_PROGRAM // triton.next_power_of_2(max(2 * half_block + kept_block, 1)))
    heads = min(heads, triton.next_power_of_2(num_heads))
    # Few enough threads that each moves 16 bytes at a time in the narrowest tile.
    narrowest = min((block for block in (half_block, kept_block) if block), default=1)
    num_warps = max(1, min(4, heads * narrowest * qkv_BFHD.element_size() // (32 * 16)))
    tiles = triton.cdiv(num_heads, heads) + 2 * triton.cdiv(num_kv_heads, heads)
    launch(_rotate_and_store_kernel, (num_rows * num_fed, tiles), qkv_BFHD, positions_BF, cos_LR, sin_LR, q_weight_D,
           k_weight_D, eps, q_BFHD, keys_SKD, values_SKD, slot_T.contiguous(), num_fed, *qkv_BFHD.stride(),
           *positions_BF.stride(), *cos_LR.stride(), *sin_LR.stride(), *keys_SKD.stride(), *values_SKD.stride(),
           0 if q_weight_D is None else q_weight_D.stride(0), 0 if k_weight_D is None else k_weight_D.stride(0),
           H=num_heads, K=num_kv_heads, D=width, HALF=half, HALF_BLOCK=half_block, KEPT_BLOCK=kept_block, HEADS=heads,
           num_warps=num_warps)
    return q_BFHD


@triton.jit
def _put(target, head, stride_head, stride, exists, y_low, y_high, y_kept, D: tl.constexpr, HALF: tl.constexpr,
         HALF_BLOCK: tl.constexpr, KEPT_BLOCK: tl.constexpr):
    target += head * stride_head
    if HALF_BLOCK > 0:
        low = tl.arange(0, HALF_BLOCK)[None, :]
        tl.store(target + low * stride, y_low.to(target.dtype.element_ty), mask=exists & (low < HALF))
        tl.store(target + (low + HALF) * stride, y_high.to(target.dtype.element_ty), mask=exists & (low < HALF))
    if KEPT_BLOCK > 0:
        kept = 2 * HALF + tl.arange(0, KEPT_BLOCK)[None, :]
        tl.store(target + kept * stride, y_kept.to(target.dtype.element_ty), mask=exists & (kept < D))


@triton.jit
def _get(source, dim, stride, inside):
    return tl.load(source + dim * stride, mask=inside, other=0).to(tl.float32)


@triton.jit(do_not_specialize=["num_fed"])
def _rotate_and_store_kernel(
        qkv, positions, cos, sin, q_weight, k_weight, eps, q, keys, values, slots, num_fed, stride_qkv_row,
        stride_qkv_fed, stride_qkv_head, stride_qkv, stride_positions_row, stride_positions, stride_cos_row, stride_cos,
        stride_sin_row, stride_sin, stride_keys_slot, stride_keys_head, stride_keys, stride_values_slot,
        stride_values_head, stride_values, stride_q_weight, stride_k_weight, H: tl.constexpr, K: tl.constexpr,
        D: tl.constexpr, HALF: tl.constexpr, HALF_BLOCK: tl.constexpr, KEPT_BLOCK: tl.constexpr, HEADS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    row, fed = token // num_fed, token % num_fed
    slot = tl.load(slots + token)
    # The heads of a program are all queries', all keys' or all values'.
    tile, query_tiles, key_tiles = tl.program_id(1), tl.cdiv(H, HEADS), tl.cdiv(K, HEADS)
    is_query, is_value = tile < query_tiles, tile >= query_tiles + key_tiles
    source = qkv + row * stride_qkv_row + fed * stride_qkv_fed
    num_heads = H
    if is_value:
        tile -= query_tiles + key_tiles
        source += (H + K) * stride_qkv_head
        num_heads = K
    elif tile >= query_tiles:
        tile -= query_tiles
        source += H * stride_qkv_head
        num_heads = K
    head = (tile * HEADS + tl.arange(0, HEADS))[:, None]
    exists = head < num_heads
    source += head * stride_qkv_head
    # The first half, the second half and what is not rotated are tiles of their own: each a run of whole vectors.
    low, kept = tl.arange(0, max(HALF_BLOCK, 1))[None, :], 2 * HALF + tl.arange(0, max(KEPT_BLOCK, 1))[None, :]
    in_half, in_kept = low < HALF, kept < D
    x_low, x_high, x_kept = None, None, None
    squares = tl.zeros((HEADS,), tl.float32)
    if HALF_BLOCK > 0:
        x_low = _get(source, low, stride_qkv, exists & in_half)
        x_high = _get(source, low + HALF, stride_qkv, exists & in_half)
        squares += tl.sum(x_low * x_low + x_high * x_high, axis=1)
    if KEPT_BLOCK > 0:
        x_kept = _get(source, kept, stride_qkv, exists & in_kept)
        squares += tl.sum(x_kept * x_kept, axis=1)
    if is_value:
        if slot >= 0:
            _put(values + slot * stride_values_slot, head, stride_values_head, stride_values, exists, x_low, x_high,
                 x_kept, D, HALF, HALF_BLOCK, KEPT_BLOCK)
        return
    if q_weight is not None:
        scale = tl.rsqrt(squares / D + eps)[:, None]
        weight, stride_weight = k_weight, stride_k_weight
        if is_query:
            weight, stride_weight = q_weight, stride_q_weight
        # Masked like the heads, the weights are read in the heads' layout: whole vectors, nothing to exchange.
        if HALF_BLOCK > 0:
            x_low *= scale * _get(weight, low, stride_weight, exists & in_half)
            x_high *= scale * _get(weight, low + HALF, stride_weight, exists & in_half)
        if KEPT_BLOCK > 0:
            x_kept *= scale * _get(weight, kept, stride_weight, exists & in_kept)
    if HALF_BLOCK > 0:
        position = tl.load(positions + row * stride_positions_row + fed * stride_positions)
        cos += position * stride_cos_row
        sin += position * stride_sin_row
        high = low + HALF
        y_low = x_low * _get(cos, low, stride_cos, in_half) + x_high * _get(sin, low, stride_sin, in_half)
        x_high = x_high * _get(cos, high, stride_cos, in_half) + x_low * _get(sin, high, stride_sin, in_half)
        x_low = y_low
    if is_query:
        _put(q + token * H * D, head, D, 1, exists, x_low, x_high, x_kept, D, HALF, HALF_BLOCK, KEPT_BLOCK)
    elif slot >= 0:
        _put(keys + slot * stride_keys_slot, head, stride_keys_head, stride_keys, exists, x_low, x_high, x_kept, D,
             HALF, HALF_BLOCK, KEPT_BLOCK)


@dataclass(frozen=True)
class RotateAndStoreCase:
    """The keys and values of `fed` positions in each of `rows` rows, stored in a cache of `context` slots a row; norms
    per head where `qk_norm`, and rotation of the first `rotated` of a head's `width` dimensions."""

    rows: int
    fed: int
    context: int
    heads: int
    kv_heads: int
    width: int
    rotated: int
    qk_norm: bool

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor | float | int | None, ...]:
        num_all_heads = self.heads + 2 * self.kv_heads
        qkv_BFHD = torch.randn(self.rows, self.fed, num_all_heads, self.width, dtype=dtype, device=device)
        positions_1F = torch.arange(self.context - self.fed, self.context, device=device)[None]
        angle_LR = torch.rand(self.context, self.rotated, device=device)
        weights = torch.rand(2, self.width, dtype=dtype, device=device) + 0.5 if self.qk_norm else (None, None)
        store = torch.zeros(2, self.rows * self.context, self.kv_heads, self.width, dtype=dtype, device=device)
        slot_BF = torch.arange(self.rows, device=device)[:, None] * self.context + positions_1F
        return (qkv_BFHD, positions_1F, angle_LR.cos(), angle_LR.sin(), *weights, 1e-6, self.heads, *store,
                slot_BF.flatten())

    def run(self, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        return rotate_and_store(*inputs), *inputs[8:10]

    def reference(self, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        return reference(*inputs), *inputs[8:10]

    def cost(self, dtype: torch.dtype) -> Cost:
        # Everything is read once and written once; the table is float32.
        num_heads = self.heads + 2 * self.kv_heads
        heads_bytes = 2 * self.rows * num_heads * self.width * dtype.itemsize
        return Cost(self.fed * (heads_bytes + 2 * self.rotated * 4 + 8 + self.rows * 8))
