"""Fused QK-norm, RoPE and KV-cache write.

    h    = x / sqrt(mean(x^2) + eps) * weight         queries and keys, per head, where weights are given
    q, k = h cos_p + swap(h) sin_p                     on a head's first R dimensions; the others stay
    keys[slot], values[slot] = k, v

swap exchanges the halves of the R dimensions and sin carries the sign of the first half: rotate-half RoPE (Su et al.,
arXiv 2104.09864) with the model's table, in part where R < D. A decoder that rewrites its block each step gives what
must not be kept a spare slot. A program takes some heads of one token; each byte moves once.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .autocast import autocast_dtype
from .batch_invariance import by_position
from .case import Case, Cost
from .dispatch import kernel, launch
from .heads_in_halves import load_numbers, rotated, store_heads
from .tensor_checks import assert_contiguous, assert_rows_contiguous, check_dtype, check_shape

_NUMBERS_PER_PROGRAM = 2048


@dataclass(frozen=True)
class Rope:
    """The positions of tokens, int64 [B, F] or [1, F], as rows of the table cos_LR, sin_LR (float32; R even and at most
    the heads' width, or 0)."""

    positions_BF: Tensor
    cos_LR: Tensor
    sin_LR: Tensor

    @cached_property
    def angles(self) -> tuple[Tensor, Tensor]:
        """cos and sin of the positions, each [B, F, 1, R]: worked out once for all layers."""
        return self.cos_LR[self.positions_BF].unsqueeze(2), self.sin_LR[self.positions_BF].unsqueeze(2)


@dataclass(frozen=True)
class QKNorm:
    """The RMSNorms of queries and keys, float [D]."""

    q_weight_D: Tensor
    k_weight_D: Tensor
    eps: float


@dataclass(frozen=True)
class KVSlots:
    """Where keys and values are written, float [S, K, D]: those of token b F + f at slot_T[b F + f], int64 [B F]. Slots
    differ but for spare ones, which nobody reads."""

    keys_SKD: Tensor
    values_SKD: Tensor
    slot_T: Tensor


def reference(qkv_BFHD: Tensor, num_heads: int, rope: Rope, norm: QKNorm | None, slots: KVSlots | None
              ) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, F, H, D], and keys and values [S, K, D] that hold those of the tokens at their slots: those of
    `slots`, written in place, or where that is None, new ones with a slot a token.

    qkv_BFHD holds H = num_heads query heads, then K key and K value heads of each token: float [B, F, H + 2 K, D].
    Queries, and keys and values without slots, are of its dtype; under autocast PyTorch leaves queries and keys in
    float32. Differentiable in PyTorch without slots."""
    q_BFHD, k_BFKD, v_BFKD = by_position(
        lambda qkv_BFHD, *angles: _rotated(qkv_BFHD, num_heads, angles, norm), qkv_BFHD, *rope.angles)
    if autocast_dtype(qkv_BFHD) is None:  # the table is wider than 16 bits
        q_BFHD, k_BFKD = q_BFHD.to(qkv_BFHD.dtype), k_BFKD.to(qkv_BFHD.dtype)
    k_TKD, v_TKD = k_BFKD.flatten(0, 1), v_BFKD.flatten(0, 1)
    if slots is None:
        return q_BFHD, k_TKD, v_TKD
    return (q_BFHD, slots.keys_SKD.index_copy_(0, slots.slot_T, k_TKD.to(slots.keys_SKD.dtype)),
            slots.values_SKD.index_copy_(0, slots.slot_T, v_TKD.to(slots.values_SKD.dtype)))


def _rotated(qkv_BFHD: Tensor, num_heads: int, angles: tuple[Tensor, Tensor], norm: QKNorm | None
             ) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a product, normalised and rotated; queries and keys in the wider of its dtype and the
    angles'."""
    num_kv_heads = (qkv_BFHD.shape[2] - num_heads) // 2
    qk_BFHD, v_BFKD = qkv_BFHD.split((num_heads + num_kv_heads, num_kv_heads), dim=2)
    if norm is not None:
        q_BFHD, k_BFKD = qk_BFHD.split((num_heads, num_kv_heads), dim=2)
        qk_BFHD = torch.cat((F.rms_norm(q_BFHD, norm.q_weight_D.shape, norm.q_weight_D, norm.eps),
                             F.rms_norm(k_BFKD, norm.k_weight_D.shape, norm.k_weight_D, norm.eps)), dim=2)
    cos_BF1R, sin_BF1R = angles
    width = cos_BF1R.shape[-1]
    if width:
        turned, kept = qk_BFHD[..., :width], qk_BFHD[..., width:]
        turned = torch.addcmul(turned * cos_BF1R, turned.roll(width // 2, -1), sin_BF1R)
        qk_BFHD = torch.cat((turned, kept), dim=-1) if kept.shape[-1] else turned
    q_BFHD, k_BFKD = qk_BFHD.split((num_heads, num_kv_heads), dim=2)
    return q_BFHD, k_BFKD, v_BFKD


def _check(qkv_BFHD: Tensor, num_heads: int, rope: Rope, norm: QKNorm | None, slots: KVSlots | None) -> None:
    check_heads(qkv_BFHD.shape, num_heads, rope, norm, slots)


def check_heads(size: tuple[int, ...], num_heads: int, rope: Rope, norm: QKNorm | None, slots: KVSlots | None) -> None:
    """ValueError unless the others fit heads of this size, [B, F, H + 2 K, D]."""
    (num_rows, num_fed, num_all_heads, width), positions_BF = size, rope.positions_BF
    num_kv_heads, odd = divmod(num_all_heads - num_heads, 2)
    if num_kv_heads < 1 or odd:
        raise ValueError(f"qkv_BFHD {[*size]} with {num_heads} query heads: must be [B, F, H + 2 K, D]")
    if positions_BF.shape not in ((num_rows, num_fed), (1, num_fed)):
        raise ValueError(f"positions_BF {[*positions_BF.shape]} for {num_rows} rows of {num_fed}: must be [B, F] or "
                         "[1, F]")
    check_dtype("positions_BF", positions_BF, torch.int64)
    cos_LR, sin_LR = rope.cos_LR, rope.sin_LR
    if cos_LR.ndim != 2 or cos_LR.shape != sin_LR.shape or cos_LR.shape[1] % 2 or cos_LR.shape[1] > width:
        raise ValueError(f"cos_LR {[*cos_LR.shape]}, sin_LR {[*sin_LR.shape]}: must be alike, of an even number of "
                         f"angles up to the heads' width, {width}")
    if norm is not None and not norm.q_weight_D.shape == norm.k_weight_D.shape == (width,):
        raise ValueError(f"q_weight_D {[*norm.q_weight_D.shape]}, k_weight_D {[*norm.k_weight_D.shape]}: must be "
                         f"[{width}]")
    if slots is not None:
        held = slots.keys_SKD.shape
        if held[1:] != (num_kv_heads, width) or slots.values_SKD.shape != held:
            raise ValueError(f"keys_SKD {[*held]}, values_SKD {[*slots.values_SKD.shape]}: must both be "
                             f"{['S', num_kv_heads, width]}")
        check_shape("slot_T", slots.slot_T, num_rows * num_fed)
        check_dtype("slot_T", slots.slot_T, torch.int64)


@kernel(reference, check=_check)
def rotate_and_store(qkv_BFHD: Tensor, num_heads: int, rope: Rope, norm: QKNorm | None, slots: KVSlots | None
                     ) -> tuple[Tensor, Tensor, Tensor]:
    num_rows, num_fed, num_all_heads, width = qkv_BFHD.shape
    num_kv_heads, half = (num_all_heads - num_heads) // 2, rope.cos_LR.shape[1] // 2
    q_BFHD = torch.empty((num_rows, num_fed, num_heads, width), dtype=qkv_BFHD.dtype, device=qkv_BFHD.device)
    if slots is None:
        size = (num_rows * num_fed, num_kv_heads, width)
        keys_SKD, values_SKD = (torch.empty(size, dtype=qkv_BFHD.dtype, device=qkv_BFHD.device) for _ in range(2))
    else:
        keys_SKD, values_SKD = slots.keys_SKD, slots.values_SKD
    q_weight_D, k_weight_D, eps = (None, None, 0.0) if norm is None else (norm.q_weight_D, norm.k_weight_D, norm.eps)
    slot_T = None if slots is None else slots.slot_T
    assert_contiguous(qkv_BFHD=qkv_BFHD, cos_LR=rope.cos_LR, sin_LR=rope.sin_LR, q_weight_D=q_weight_D,
                      k_weight_D=k_weight_D, keys_SKD=keys_SKD, values_SKD=values_SKD, slot_T=slot_T)
    assert_rows_contiguous(positions_BF=rope.positions_BF)
    stride_positions_row = rope.positions_BF.stride(0) if len(rope.positions_BF) == num_rows else 0
    half_block, kept_block = (triton.next_power_of_2(extent) if extent else 0 for extent in (half, width - 2 * half))
    heads = max(1, _NUMBERS_PER_PROGRAM // triton.next_power_of_2(max(2 * half_block + kept_block, 1)))
    heads = min(heads, triton.next_power_of_2(num_heads))
    # Few enough threads that each moves 16 bytes at a time in the narrowest tile.
    narrowest = min((block for block in (half_block, kept_block) if block), default=1)
    num_warps = max(1, min(4, heads * narrowest * qkv_BFHD.element_size() // (32 * 16)))
    tiles = triton.cdiv(num_heads, heads) + 2 * triton.cdiv(num_kv_heads, heads)
    launch(_rotate_and_store_kernel, (num_rows * num_fed, tiles), qkv_BFHD, rope.positions_BF, rope.cos_LR, rope.sin_LR,
           q_weight_D, k_weight_D, eps, q_BFHD, keys_SKD, values_SKD, slot_T, num_fed, stride_positions_row,
           H=num_heads, K=num_kv_heads, D=width, HALF=half, HALF_BLOCK=half_block, KEPT_BLOCK=kept_block, HEADS=heads,
           num_warps=num_warps)
    return q_BFHD, keys_SKD, values_SKD


@triton.jit(do_not_specialize=["num_fed"])
def _rotate_and_store_kernel(
        qkv_ptr, positions_ptr, cos_ptr, sin_ptr, q_weight_ptr, k_weight_ptr, eps, q_ptr, keys_ptr, values_ptr,
        slot_ptr, num_fed, stride_positions_row, H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
        HALF_BLOCK: tl.constexpr, KEPT_BLOCK: tl.constexpr, HEADS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    slot = token
    if slot_ptr is not None:
        slot = tl.load(slot_ptr + token)
    # The heads of a program are all queries', all keys' or all values'.
    tile, query_tiles, key_tiles = tl.program_id(1), tl.cdiv(H, HEADS), tl.cdiv(K, HEADS)
    is_query, is_value = tile < query_tiles, tile >= query_tiles + key_tiles
    source_ptr = qkv_ptr + token * ((H + 2 * K) * D)
    num_heads = H
    if is_value:
        tile -= query_tiles + key_tiles
        source_ptr += (H + K) * D
        num_heads = K
    elif tile >= query_tiles:
        tile -= query_tiles
        source_ptr += H * D
        num_heads = K
    head = (tile * HEADS + tl.arange(0, HEADS))[:, None]
    exists = head < num_heads
    source_ptr += head * D
    low, kept = tl.arange(0, max(HALF_BLOCK, 1))[None, :], 2 * HALF + tl.arange(0, max(KEPT_BLOCK, 1))[None, :]
    in_half, in_kept = low < HALF, kept < D
    x_low, x_high, x_kept = None, None, None
    squares = tl.zeros((HEADS,), tl.float32)
    if HALF_BLOCK > 0:
        x_low = load_numbers(source_ptr, low, exists & in_half)
        x_high = load_numbers(source_ptr, low + HALF, exists & in_half)
        squares += tl.sum(x_low * x_low + x_high * x_high, axis=1)
    if KEPT_BLOCK > 0:
        x_kept = load_numbers(source_ptr, kept, exists & in_kept)
        squares += tl.sum(x_kept * x_kept, axis=1)
    if is_value:
        store_heads(values_ptr + slot * (K * D) + head * D, exists, x_low, x_high, x_kept, D, HALF, HALF_BLOCK,
                    KEPT_BLOCK)
        return
    if q_weight_ptr is not None:
        scale = tl.rsqrt(squares / D + eps)[:, None]
        weight_ptr = k_weight_ptr
        if is_query:
            weight_ptr = q_weight_ptr
        # Masked like the heads, the weights are read in the heads' layout: whole vectors, nothing to exchange.
        if HALF_BLOCK > 0:
            x_low *= scale * load_numbers(weight_ptr, low, exists & in_half)
            x_high *= scale * load_numbers(weight_ptr, low + HALF, exists & in_half)
        if KEPT_BLOCK > 0:
            x_kept *= scale * load_numbers(weight_ptr, kept, exists & in_kept)
    if HALF_BLOCK > 0:
        position = tl.load(positions_ptr + token // num_fed * stride_positions_row + token % num_fed)
        x_low, x_high = rotated(x_low, x_high, cos_ptr + position * (2 * HALF), sin_ptr + position * (2 * HALF),
                                in_half, HALF, HALF_BLOCK)
    if is_query:
        store_heads(q_ptr + token * (H * D) + head * D, exists, x_low, x_high, x_kept, D, HALF, HALF_BLOCK, KEPT_BLOCK)
    else:
        store_heads(keys_ptr + slot * (K * D) + head * D, exists, x_low, x_high, x_kept, D, HALF, HALF_BLOCK,
                    KEPT_BLOCK)


@dataclass(frozen=True)
class RotateAndStoreCase(Case):
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
    run = staticmethod(rotate_and_store)
    reference = staticmethod(reference)

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
        num_all_heads = self.heads + 2 * self.kv_heads
        qkv_BFHD = torch.randn(self.rows, self.fed, num_all_heads, self.width, dtype=dtype, device=device)
        positions_1F = torch.arange(self.context - self.fed, self.context, device=device)[None]
        angle_LR = torch.rand(self.context, self.rotated, device=device)
        q_weight_D, k_weight_D = torch.rand(2, self.width, dtype=dtype, device=device) + 0.5
        norm = QKNorm(q_weight_D, k_weight_D, 1e-6) if self.qk_norm else None
        size = (self.rows * self.context, self.kv_heads, self.width)
        keys_SKD, values_SKD = torch.zeros(2, *size, dtype=dtype, device=device)
        slot_BF = torch.arange(self.rows, device=device)[:, None] * self.context + positions_1F
        return (qkv_BFHD, self.heads, Rope(positions_1F, angle_LR.cos(), angle_LR.sin()), norm,
                KVSlots(keys_SKD, values_SKD, slot_BF.flatten()))

    def cost(self, dtype: torch.dtype) -> Cost:
        # Everything is read once and written once; the table is float32.
        num_heads = self.heads + 2 * self.kv_heads
        heads_bytes = 2 * self.rows * num_heads * self.width * dtype.itemsize
        return Cost(self.fed * (heads_bytes + 2 * self.rotated * 4 + 8 + self.rows * 8))
