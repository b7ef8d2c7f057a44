"""Everything before attention for few rows, in one launch: residual addition, RMSNorm, the product to queries, keys and
values, QK-norm, RoPE and KV-cache write.

    r       = x + delta,   u = r / rms(r) * w        (rms_norm)
    q, k, v = heads of W u + b, normalised, rotated and stored        (rotate_and_store)

A row's scale commutes with the product: W (r / rms(r) * w) = (W (r * w)) / rms(r). So a program reads one head's rows
of W once, sums the squares of r on the way, and scales at the end. The programs of one head also write r. Weights are
the tensor core's M side. What r * w reaches may leave float16's range, so models of that dtype take three launches.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from . import rms_norm, rotate_and_store
from .autocast import autocast_dtype
from .case import Cost
from .dispatch import kernel, launch, num_pipeline_stages, runs_triton
from .heads_in_halves import load_numbers, rotated
from .rotate_and_store import KVSlots, QKNorm, Rope, RotateAndStoreCase
from .tensor_checks import assert_contiguous, assert_rows_contiguous, check_dtype, check_shape

MOST_ROWS = 64


@dataclass(frozen=True)
class Projection:
    """The norm before attention, weight [E], and the product after it, weight [(H + 2 K) D, E] and bias [(H + 2 K) D]
    or None, all of one float dtype; D is head_width."""

    norm_weight_E: Tensor
    eps: float
    weight_NE: Tensor
    bias_N: Tensor | None
    head_width: int


def pays(x_BFE: Tensor, weight_NE: Tensor) -> bool:
    """Whether one launch stands for three: where Triton runs, rows are few and the dtype is not float16."""
    return (runs_triton(x_BFE, weight_NE) and x_BFE.numel() <= MOST_ROWS * x_BFE.shape[-1]
            and x_BFE.dtype != torch.float16 and autocast_dtype(x_BFE) is None)


def reference(x_BFE: Tensor, delta_BFE: Tensor | None, projection: Projection, num_heads: int, rope: Rope,
              qk_norm: QKNorm | None, slots: KVSlots | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries [B, F, H, D], and keys and values [S, K, D] as `rotate_and_store` gives them, of the normalised x + delta
    (None stands for zero), and x + delta itself, [B, F, E]. x and delta are of the projection's dtype. Triton takes any
    number of rows, and is meant for up to 64; it rounds r * w where PyTorch rounds r / rms(r) * w."""
    normed_BFE, total_BFE = rms_norm.reference(x_BFE, projection.norm_weight_E, projection.eps), x_BFE
    if delta_BFE is not None:
        normed_BFE, total_BFE = rms_norm.add_reference(x_BFE, delta_BFE, projection.norm_weight_E, projection.eps)
    qkv_BFHD = F.linear(normed_BFE, projection.weight_NE, projection.bias_N).unflatten(-1, (-1, projection.head_width))
    return (*rotate_and_store.reference(qkv_BFHD, num_heads, rope, qk_norm, slots), total_BFE)


def _check(x_BFE: Tensor, delta_BFE: Tensor | None, projection: Projection, num_heads: int, rope: Rope,
           qk_norm: QKNorm | None, slots: KVSlots | None) -> None:
    num_rows, num_fed, width = x_BFE.shape
    num_outputs = len(projection.weight_NE)
    check_shape("delta_BFE", delta_BFE, num_rows, num_fed, width)
    check_shape("norm_weight_E", projection.norm_weight_E, width)
    check_shape("weight_NE", projection.weight_NE, num_outputs, width)
    check_shape("bias_N", projection.bias_N, num_outputs)
    for name in ("norm_weight_E", "weight_NE", "bias_N"):
        check_dtype(name, getattr(projection, name), x_BFE.dtype)
    check_dtype("delta_BFE", delta_BFE, x_BFE.dtype)
    num_heads_in_all, left = divmod(num_outputs, projection.head_width)
    if left:
        raise ValueError(f"weight_NE {[*projection.weight_NE.shape]}: must have heads of {projection.head_width} rows")
    rotate_and_store.check_heads((num_rows, num_fed, num_heads_in_all, projection.head_width), num_heads, rope, qk_norm,
                                 slots)


@kernel(reference, check=_check)
def project_and_store(x_BFE: Tensor, delta_BFE: Tensor | None, projection: Projection, num_heads: int, rope: Rope,
                      qk_norm: QKNorm | None, slots: KVSlots | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if x_BFE.numel() > torch.iinfo(torch.int32).max:
        return reference(x_BFE, delta_BFE, projection, num_heads, rope, qk_norm, slots)
    (num_rows, num_fed, width), head_width = x_BFE.shape, projection.head_width
    num_tokens, num_kv_heads = num_rows * num_fed, (len(projection.weight_NE) // head_width - num_heads) // 2
    total_BFE = x_BFE
    if delta_BFE is not None:
        total_BFE = torch.empty(x_BFE.shape, dtype=x_BFE.dtype, device=x_BFE.device)
    q_BFHD = torch.empty((num_rows, num_fed, num_heads, head_width), dtype=x_BFE.dtype, device=x_BFE.device)
    if slots is None:
        size = (num_tokens, num_kv_heads, head_width)
        keys_SKD, values_SKD = (torch.empty(size, dtype=x_BFE.dtype, device=x_BFE.device) for _ in range(2))
    else:
        keys_SKD, values_SKD = slots.keys_SKD, slots.values_SKD
    q_weight_D, k_weight_D, qk_eps = (
        (None, None, 0.0) if qk_norm is None else (qk_norm.q_weight_D, qk_norm.k_weight_D, qk_norm.eps))
    slot_T = None if slots is None else slots.slot_T
    assert_contiguous(x_BFE=x_BFE, delta_BFE=delta_BFE, norm_weight_E=projection.norm_weight_E,
                      weight_NE=projection.weight_NE, bias_N=projection.bias_N, cos_LR=rope.cos_LR, sin_LR=rope.sin_LR,
                      q_weight_D=q_weight_D, k_weight_D=k_weight_D, keys_SKD=keys_SKD, values_SKD=values_SKD,
                      slot_T=slot_T)
    assert_rows_contiguous(positions_BF=rope.positions_BF)
    stride_positions_row = rope.positions_BF.stride(0) if len(rope.positions_BF) == num_rows else 0
    half = rope.cos_LR.shape[1] // 2
    is_float32 = x_BFE.element_size() == 4
    rows = 16 if is_float32 else min(MOST_ROWS, max(16, triton.next_power_of_2(num_tokens)))
    launch(_project_kernel, (num_heads + 2 * num_kv_heads, triton.cdiv(num_tokens, rows)), x_BFE, delta_BFE,
           projection.norm_weight_E, projection.eps, projection.weight_NE, projection.bias_N, rope.positions_BF,
           rope.cos_LR, rope.sin_LR, q_weight_D, k_weight_D, qk_eps, total_BFE, q_BFHD, keys_SKD, values_SKD, slot_T,
           num_tokens, num_fed, width, stride_positions_row, H=num_heads, K=num_kv_heads, D=head_width, HALF=half,
           BLOCK=max(8, triton.next_power_of_2(triton.cdiv(head_width, 2))), ROWS=rows, DEPTH=32 if is_float32 else 64,
           num_warps=8 if is_float32 else 4, num_stages=num_pipeline_stages(3))
    return q_BFHD, keys_SKD, values_SKD, total_BFE


@triton.jit(do_not_specialize=["num_tokens", "num_fed", "stride_positions_row"])
def _project_kernel(
        x_ptr, delta_ptr, norm_weight_ptr, eps, weight_ptr, bias_ptr, positions_ptr, cos_ptr, sin_ptr, q_weight_ptr,
        k_weight_ptr, qk_eps, total_ptr, q_ptr, keys_ptr, values_ptr, slot_ptr, num_tokens, num_fed, width,
        stride_positions_row, H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
        BLOCK: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    head = tl.program_id(0)
    token = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    exists, depth = token < num_tokens, tl.arange(0, DEPTH)[None, :]
    # Tokens and lines past the end repeat others; they are masked where it counts.
    place = tl.minimum(token, num_tokens - 1) * width + depth
    # Eight dimensions of the first half, their eight partners, and so on: a thread then holds both.
    line = tl.arange(0, 2 * BLOCK)
    low_dim, high_dim = _partners(tl.minimum(line // 16 * 8 + line % 8, (D - 1) // 2), D, HALF)
    dim = tl.minimum(low_dim + line // 8 % 2 * (high_dim - low_dim), D - 1)
    num_written = tl.where(head == 0, num_tokens, 0)
    weight_ptr += head.to(tl.int64) * D * width
    weight_place = dim[:, None] * width + depth
    product = tl.zeros([2 * BLOCK, ROWS], dtype=tl.float32)
    squares = tl.zeros([ROWS], dtype=tl.float32)
    for start in range(0, width, DEPTH):
        inside = depth < width - start
        value = tl.load(x_ptr + place, mask=inside, other=0).to(tl.float32)
        if delta_ptr is not None:
            # The residual stream is kept in the input's dtype: what is normalised is what is kept.
            total = value + tl.load(delta_ptr + place, mask=inside, other=0).to(tl.float32)
            total = total.to(total_ptr.dtype.element_ty)
            tl.store(total_ptr + place, total, mask=inside & (token < num_written))
            value = total.to(tl.float32)
        squares += tl.sum(value * value, axis=1)
        weighted = value * load_numbers(norm_weight_ptr + start, depth, inside)
        weighted = tl.trans(weighted.to(x_ptr.dtype.element_ty))
        weights = tl.load(weight_ptr + weight_place, mask=inside, other=0)
        product = tl.dot(weights, weighted, product, input_precision="ieee")
        place += DEPTH
        weight_ptr += DEPTH
    scale = tl.rsqrt(squares / width + eps)[:, None]
    index = tl.arange(0, BLOCK)[None, :]
    low_dim, high_dim = _partners(index, D, HALF)
    in_low, in_high = index < (D + 1) // 2, high_dim < D
    if bias_ptr is not None:
        bias_ptr += head * D
    x_low, x_high = tl.split(product.reshape(BLOCK // 8, 2, 8, ROWS).permute(0, 2, 3, 1))
    x_low = _finished(x_low.reshape(BLOCK, ROWS), scale, bias_ptr, low_dim, in_low, x_ptr)
    x_high = _finished(x_high.reshape(BLOCK, ROWS), scale, bias_ptr, high_dim, in_high, x_ptr)
    is_query, token64 = head < H, token.to(tl.int64)
    slot = token64
    if slot_ptr is not None:
        slot = tl.load(slot_ptr + token, mask=exists, other=0)
    if head >= H + K:
        _store_head(values_ptr + (head - H - K) * D + slot * (K * D), exists, x_low, x_high, D, HALF, BLOCK)
        return
    if q_weight_ptr is not None:
        scale = tl.rsqrt(tl.sum(x_low * x_low + x_high * x_high, axis=1) / D + qk_eps)[:, None]
        norm_ptr = k_weight_ptr
        if is_query:
            norm_ptr = q_weight_ptr
        x_low *= scale * load_numbers(norm_ptr, low_dim, in_low)
        x_high *= scale * load_numbers(norm_ptr, high_dim, in_high)
    if HALF > 0:
        position = tl.load(positions_ptr + token // num_fed * stride_positions_row + token % num_fed, mask=exists,
                           other=0)
        is_turned = index < HALF
        y_low, y_high = rotated(x_low, x_high, cos_ptr + position * (2 * HALF), sin_ptr + position * (2 * HALF),
                                is_turned, HALF, BLOCK)
        if 2 * HALF < D:
            y_low, y_high = tl.where(is_turned, y_low, x_low), tl.where(is_turned, y_high, x_high)
        x_low, x_high = y_low, y_high
    if is_query:
        _store_head(q_ptr + head * D + token64 * (H * D), exists, x_low, x_high, D, HALF, BLOCK)
    else:
        _store_head(keys_ptr + (head - H) * D + slot * (K * D), exists, x_low, x_high, D, HALF, BLOCK)


@triton.jit
def _partners(index, D: tl.constexpr, HALF: tl.constexpr):
    """The two dimensions of pair `index` of a head: first those that turn together, then the kept ones, as far apart
    as half of them."""
    is_kept = (index >= HALF).to(tl.int32)  # a factor: of a selection the compiler does not see runs of neighbours
    return index + is_kept * HALF, index + HALF + is_kept * ((D + 1) // 2 - HALF)


@triton.jit
def _store_head(target_ptr, exists, x_low, x_high, D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr):
    """Write a head of the tokens that exist [ROWS, 1] to target_ptr [ROWS, 1]."""
    index = tl.arange(0, BLOCK)[None, :]
    low_dim, high_dim = _partners(index, D, HALF)
    tl.store(target_ptr + low_dim, x_low.to(target_ptr.dtype.element_ty), mask=exists & (index < (D + 1) // 2))
    tl.store(target_ptr + high_dim, x_high.to(target_ptr.dtype.element_ty), mask=exists & (high_dim < D))


@triton.jit
def _finished(product, scale, bias_ptr, dim, inside, like_ptr):
    """Some dimensions of all tokens [ROWS, dims] from their product [dims, ROWS], scaled and rounded as it would be."""
    found = tl.trans(product) * scale
    if bias_ptr is not None:
        found += load_numbers(bias_ptr, dim, inside)
    return tl.where(inside, found.to(like_ptr.dtype.element_ty).to(tl.float32), 0.0)


@dataclass(frozen=True)
class ProjectAndStoreCase(RotateAndStoreCase):
    """The same from `model_width` numbers a position on, with the residual's addition."""

    model_width: int = 64
    run = staticmethod(project_and_store)
    reference = staticmethod(reference)

    @property
    def needs_hgmma(self) -> bool:
        return True

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
        _, *others = super().inputs(dtype, device)
        x_BFE, delta_BFE = torch.randn(2, self.rows, self.fed, self.model_width, dtype=dtype, device=device)
        num_outputs = (self.heads + 2 * self.kv_heads) * self.width
        weight_NE = torch.randn(num_outputs, self.model_width, dtype=dtype, device=device).mul_(self.model_width**-0.5)
        norm_weight_E = torch.rand(self.model_width, dtype=dtype, device=device) + 0.5
        return x_BFE, delta_BFE, Projection(norm_weight_E, 1e-6, weight_NE, None, self.width), *others

    def cost(self, dtype: torch.dtype) -> Cost:
        num_outputs, num_tokens = (self.heads + 2 * self.kv_heads) * self.width, self.rows * self.fed
        # The weights, x and delta in, their sum and the heads out, and the table.
        numbers = self.model_width * (num_outputs + 3 * num_tokens) + num_tokens * num_outputs
        return Cost(numbers * dtype.itemsize + self.fed * (2 * self.rotated * 4 + 8 + self.rows * 8),
                    2 * num_tokens * self.model_width * num_outputs)
