"""Layers of a transformer block: RMSNorm (arXiv 1910.07467), rotate-half RoPE on the first `rope_fraction` of each head
(2104.09864), grouped-query attention (2305.13245) over the fed positions or a KV store, SwiGLU (2002.05202).

Tensor names: B rows, F fed positions, C context, E width, H heads, K key/value heads, D head width.
"""

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.attention import attention
from ..kernels.batch_invariance import by_position, check_device, is_batch_invariant
from ..kernels.dispatch import Implementation, decide, note
from ..kernels.rms_norm import add_rms_norm, rms_norm
from ..kernels.rotate_and_store import rotate_and_store, rotated
from ..kernels.swiglu import swiglu
from .attention import AttentionMask
from .config import Shape
from .kv_store import KVWrite

_MAX_SCORES = 2**24  # 64 MiB a layer, kept for the backward pass


class InPlace(Enum):
    """What runs in place of a kernel other than its reference, as records name it."""

    TORCH_ATTENTION = "torch's scaled_dot_product_attention"
    SCORES = "two products and a softmax"
    ROTATED = "rotated, nothing stored"
    ROTATED_AND_PUT = "rotated, then put"


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """The norm of x + residual, and x + residual. None stands for no residual yet."""
        if residual is None:
            return rms_norm(x, self.weight, self.eps), x
        return add_rms_norm(residual, x, self.weight, self.eps)


@dataclass(frozen=True)
class ForwardContext:
    """What all layers share in one forward: the fed positions (int64 [B, F] or [1, F]), the attention mask, the write
    of keys and values (None: not stored), and the RoPE tables."""

    positions_BF: Tensor
    mask: AttentionMask
    write: KVWrite | None
    cos_LD: Tensor
    sin_LD: Tensor

    @cached_property
    def rope(self) -> tuple[Tensor, Tensor]:
        """cos and sin of the fed positions, each [B, F, 1, D]."""
        return self.cos_LD[self.positions_BF].unsqueeze(-2), self.sin_LD[self.positions_BF].unsqueeze(-2)


def attend(q_BFHD: Tensor, k_BCKD: Tensor, v_BCKD: Tensor, mask: AttentionMask) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over the visible keys, [B, F, H, D]."""
    if is_batch_invariant():
        return _attend_by_query(q_BFHD, k_BCKD, v_BCKD, mask.visible_B1FC)
    if decide((q_BFHD, k_BCKD, v_BCKD)) is Implementation.TRITON:
        return attention(q_BFHD, k_BCKD, v_BCKD, None, mask.stop_BF, None, None)
    grouped = q_BFHD.shape[2] != k_BCKD.shape[2]
    q_BHFD, k_BKCD, v_BKCD = (x.transpose(1, 2) for x in (q_BFHD, k_BCKD, v_BCKD))
    if q_BFHD.is_cuda:
        note("attention", InPlace.TORCH_ATTENTION)
        return _attend_on_gpu(q_BHFD, k_BKCD, v_BKCD, mask, grouped).transpose(1, 2)
    under_autocast = torch.is_autocast_enabled(q_BFHD.device.type)
    if under_autocast and not grouped and q_BHFD[..., 0].numel() * k_BKCD.shape[2] <= _MAX_SCORES:
        note("attention", InPlace.SCORES)
        return _by_scores(q_BHFD, k_BKCD, v_BKCD, mask.visible_B1FC).transpose(1, 2)
    note("attention", InPlace.TORCH_ATTENTION)
    if not under_autocast:
        mixed_BHFD = F.scaled_dot_product_attention(q_BHFD, k_BKCD, v_BKCD, attn_mask=mask.visible_B1FC,
                                                    enable_gqa=grouped)
    else:
        with torch.autocast(q_BFHD.device.type, enabled=False):
            mixed_BHFD = F.scaled_dot_product_attention(q_BHFD.float(), k_BKCD.float(), v_BKCD.float(),
                                                        attn_mask=mask.visible_B1FC, enable_gqa=grouped)
    return mixed_BHFD.transpose(1, 2)


def _by_scores(q_BHFD: Tensor, k_BHCD: Tensor, v_BHCD: Tensor, mask_B1FC: Tensor | None) -> Tensor:
    """Attention under autocast: products in its dtype, softmax in float32. For short sequences on a CPU, forward and
    backward take half to two thirds of the time of PyTorch's fused attention in float32, a fifth of it in bfloat16."""
    score_BHFC = (q_BHFD @ k_BHCD.mT).float() * q_BHFD.shape[-1] ** -0.5
    if mask_B1FC is not None:
        score_BHFC = score_BHFC.masked_fill(~mask_B1FC, -torch.inf)
    return score_BHFC.softmax(-1) @ v_BHCD


def _attend_on_gpu(q_BHFD: Tensor, k_BKCD: Tensor, v_BKCD: Tensor, mask: AttentionMask, grouped: bool) -> Tensor:
    """PyTorch's flash kernels need 16-bit inputs and take no mask: cast under autocast, and say `is_causal` if so."""
    if torch.is_autocast_enabled(q_BHFD.device.type):
        dtype = torch.get_autocast_dtype(q_BHFD.device.type)
        q_BHFD, k_BKCD, v_BKCD = q_BHFD.to(dtype), k_BKCD.to(dtype), v_BKCD.to(dtype)
    return F.scaled_dot_product_attention(q_BHFD, k_BKCD, v_BKCD, None if mask.is_causal else mask.visible_B1FC,
                                          is_causal=mask.is_causal, enable_gqa=grouped)


def _attend_by_query(q_BFHD: Tensor, k_BCKD: Tensor, v_BCKD: Tensor, mask_B1FC: Tensor | None) -> Tensor:
    """Each query by itself, over the keys that it sees: bitwise independent of the batch and of padding."""
    check_device(q_BFHD.device)
    mixed_BFHD = torch.zeros_like(q_BFHD)
    seen_BFC = None if mask_B1FC is None else mask_B1FC[:, 0].expand(len(q_BFHD), q_BFHD.shape[1], -1)
    for row, query in product(range(len(q_BFHD)), range(q_BFHD.shape[1])):
        k_CKD, v_CKD = k_BCKD[row], v_BCKD[row]
        if seen_BFC is not None:
            k_CKD, v_CKD = k_CKD[seen_BFC[row, query]], v_CKD[seen_BFC[row, query]]
        if len(k_CKD):
            one = slice(row, row + 1), slice(query, query + 1)
            mixed_BFHD[one] = attention(q_BFHD[one].clone(), k_CKD[None].clone(), v_CKD[None].clone(), None, None, None,
                                        None)
    return mixed_BFHD


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_width = shape.num_heads, shape.num_kv_heads, shape.head_width
        self.qkv_proj = nn.Linear(shape.width, (self.num_heads + 2 * self.num_kv_heads) * self.head_width,
                                  bias=shape.qkv_bias)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.q_norm = RMSNorm(self.head_width, shape.norm_eps) if shape.qk_norm else None
        self.k_norm = RMSNorm(self.head_width, shape.norm_eps) if shape.qk_norm else None
        self.norm_eps = shape.norm_eps

    def forward(self, x_BFE: Tensor, ctx: ForwardContext, layer: int, index_BQ: Tensor | None) -> Tensor:
        qkv_BFHD = by_position(self.qkv_proj, x_BFE).unflatten(-1, (-1, self.head_width))
        q_BFHD, k_BCKD, v_BCKD = self._rotated_and_stored(qkv_BFHD, ctx, layer)
        mask = ctx.mask
        if index_BQ is not None:
            q_BFHD = q_BFHD.gather(1, index_BQ[:, :, None, None].expand(-1, -1, *q_BFHD.shape[2:]))
            mask = mask.at(index_BQ)
        return by_position(self.o_proj, attend(q_BFHD, k_BCKD, v_BCKD, mask).flatten(2))

    def _rotated_and_stored(self, qkv_BFHD: Tensor, ctx: ForwardContext, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the fed positions; keys and values of all positions that they may see."""
        q_weight_D = None if self.q_norm is None else self.q_norm.weight
        k_weight_D = None if self.k_norm is None else self.k_norm.weight
        if decide((qkv_BFHD,)) is Implementation.REFERENCE:
            note("rotate_and_store", InPlace.ROTATED if ctx.write is None else InPlace.ROTATED_AND_PUT)
            q_BFHD, k_BFKD, v_BFKD = by_position(
                lambda qkv_BFHD, *rope: rotated(qkv_BFHD, rope, q_weight_D, k_weight_D, self.norm_eps, self.num_heads),
                qkv_BFHD, *ctx.rope)
            # The table is float32, which stays under autocast and is the wider type with 16-bit weights.
            if q_BFHD.dtype != v_BFKD.dtype and not torch.is_autocast_enabled(qkv_BFHD.device.type):
                q_BFHD, k_BFKD = q_BFHD.to(v_BFKD.dtype), k_BFKD.to(v_BFKD.dtype)
            if ctx.write is not None:
                k_BFKD, v_BFKD = ctx.write.put(layer, k_BFKD, v_BFKD)
            return q_BFHD, k_BFKD, v_BFKD
        num_rows, num_fed = qkv_BFHD.shape[:2]
        if ctx.write is None:
            size = (num_rows * num_fed, self.num_kv_heads, self.head_width)
            keys_SKD, values_SKD = qkv_BFHD.new_empty(size), qkv_BFHD.new_empty(size)
            slots_T = torch.arange(num_rows * num_fed, device=qkv_BFHD.device)
        else:
            keys_SKD, values_SKD = ctx.write.slots(layer)
            slots_T = ctx.write.flat_slots_T
        q_BFHD = rotate_and_store(qkv_BFHD, ctx.positions_BF, ctx.cos_LD, ctx.sin_LD, q_weight_D, k_weight_D,
                                  self.norm_eps, self.num_heads, keys_SKD, values_SKD, slots_T)
        if ctx.write is None:
            return q_BFHD, keys_SKD.unflatten(0, (num_rows, num_fed)), values_SKD.unflatten(0, (num_rows, num_fed))
        return q_BFHD, *ctx.write.context_of(layer)


class SwiGLU(nn.Module):
    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(width, 2 * ffn_width, bias=False)
        self.down_proj = nn.Linear(ffn_width, width, bias=False)

    def forward(self, x_BFE: Tensor) -> Tensor:
        return self.down_proj(swiglu(self.gate_up_proj(x_BFE)))
