"""Layers of a transformer block: RMSNorm (arXiv 1910.07467), rotate-half RoPE on the first `rope_fraction` of each head
(2104.09864), grouped-query attention (2305.13245) over the fed positions or a KV store, SwiGLU (2002.05202).

Tensor names: B rows, F fed positions, C context, E width, H heads, K key/value heads, D head width.
"""

from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import gate_up, project_and_store
from ..kernels.attention import LARGEST_WIDTH, attention
from ..kernels.attention import reference as attention_by_library
from ..kernels.batch_invariance import by_position, check_device, is_batch_invariant
from ..kernels.key_ranges import KeyRanges
from ..kernels.project_and_store import Projection
from ..kernels.rms_norm import add_rms_norm, rms_norm
from ..kernels.rotate_and_store import QKNorm, Rope, rotate_and_store
from ..kernels.swiglu import swiglu
from .attention import AttentionMask
from .config import Shape
from .kv_store import KVWrite
from .linear import Linear, is_plain


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


class FloatRMSNorm(RMSNorm):
    """RMSNorm in float32 whatever the dtype, weight included, as Gemma 4 has it."""

    offset = 0

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps)
        nn.init.constant_(self.weight, 1 - self.offset)

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """As RMSNorm's."""
        total = x if residual is None else residual + x
        scale_E = self.weight if x.dtype == torch.float64 else self.weight.float()
        return rms_norm(total.to(scale_E.dtype), scale_E + self.offset, self.eps).to(x.dtype), total


class OffsetRMSNorm(FloatRMSNorm):
    """The same by 1 + weight, as Gemma has it until its third version."""

    offset = 1


def norm_of(shape: Shape, width: int) -> RMSNorm:
    """The norm of numbers of this width in models of this shape."""
    kind = OffsetRMSNorm if shape.norm_offset else FloatRMSNorm if shape.float_norms else RMSNorm
    return kind(width, shape.norm_eps)


def unit_norm(x: Tensor, eps: float) -> Tensor:
    """x [..., E] over the root of its mean square, in float32 before it is rounded to x's dtype."""
    wide = x if x.dtype == torch.float64 else x.float()
    return F.rms_norm(wide, x.shape[-1:], eps=eps).to(x.dtype)


@dataclass(frozen=True)
class View:
    """Where the fed positions are and what they see: their rotary angles, and the attention mask."""

    rope: Rope
    mask: AttentionMask


@dataclass(frozen=True)
class ForwardContext:
    """What all layers share in one forward: the view of the fed positions, that of layers with a window (None: there
    are none), the write of keys and values (None: not stored), and whether the forward denoises a canvas."""

    full: View
    windowed: View | None
    write: KVWrite | None
    denoises: bool = False


def _attend_by_query(q_BFHD: Tensor, k_BCKD: Tensor, v_BCKD: Tensor, mask: AttentionMask) -> Tensor:
    """Each query by itself, over the keys that it sees: bitwise independent of the batch and of padding."""
    check_device(q_BFHD.device)
    mixed_BFHD = torch.zeros_like(q_BFHD)
    visible_BKFC = mask.visible_BKFC
    seen_BFC = None if visible_BKFC is None else visible_BKFC[:, 0].expand(len(q_BFHD), q_BFHD.shape[1], -1)
    for row, query in product(range(len(q_BFHD)), range(q_BFHD.shape[1])):
        k_CKD, v_CKD = k_BCKD[row], v_BCKD[row]
        if seen_BFC is not None:
            k_CKD, v_CKD = k_CKD[seen_BFC[row, query]], v_CKD[seen_BFC[row, query]]
        if len(k_CKD):
            one = slice(row, row + 1), slice(query, query + 1)
            mixed_BFHD[one] = attention(q_BFHD[one].clone(), k_CKD[None].clone(), v_CKD[None].clone(),
                                        KeyRanges(len(k_CKD)))
    return mixed_BFHD


class Attention(nn.Module):
    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        heads = shape.heads_of(layer)
        self.num_heads, self.num_kv_heads, self.head_width, self.values_are_keys = heads
        self.qkv_proj = Linear(shape.width, sum(heads.projected), bias=shape.qkv_bias)
        self.o_proj = Linear(self.num_heads * self.head_width, shape.width, bias=shape.o_bias)
        self.is_joint, self.clip = shape.joint_qk_norm, shape.clip_qkv
        self.q_norm = self.k_norm = None
        if shape.qk_norm:
            normed_heads = (self.num_heads, self.num_kv_heads) if self.is_joint else (1, 1)
            self.q_norm, self.k_norm = (norm_of(shape, heads * self.head_width) for heads in normed_heads)
        self.windowed_layers = frozenset(shape.windowed_layers)
        # Attention's own scale is 1 / sqrt(head width).
        scale = shape.attention_scale
        self.query_scale = None if scale is None else scale * self.head_width**0.5
        self.norm_eps, self.value_norm = shape.norm_eps, shape.value_norm

    def forward(self, x_BFE: Tensor, residual_BFE: Tensor | None, norm: RMSNorm, ctx: ForwardContext,
                layer: int, index_BQ: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attention over the norm of x + residual, [B, Q, E], and x + residual itself, [B, F, E]."""
        q_BFHD, keys_SKD, values_SKD, stream_BFE = self._project(x_BFE, residual_BFE, norm, ctx, layer)
        if ctx.write is None:
            k_BCKD, v_BCKD = (x_SKD.unflatten(0, x_BFE.shape[:2]) for x_SKD in (keys_SKD, values_SKD))
        else:
            k_BCKD, v_BCKD = ctx.write.context_of(layer)
        mask = self._view(ctx, layer).mask
        if index_BQ is not None:
            q_BFHD = q_BFHD.gather(1, index_BQ[:, :, None, None].expand(-1, -1, *q_BFHD.shape[2:]))
            mask = mask.at(index_BQ)
        suits = self.head_width <= LARGEST_WIDTH  # Gemma 4's heads of 512 do not
        attend = _attend_by_query if is_batch_invariant() else attention if suits else attention_by_library
        return by_position(self.o_proj, attend(q_BFHD, k_BCKD, v_BCKD, mask).flatten(2)), stream_BFE

    def _view(self, ctx: ForwardContext, layer: int) -> View:
        if layer not in self.windowed_layers:
            return ctx.full
        assert ctx.windowed is not None
        return ctx.windowed

    def _project(self, x_BFE: Tensor, residual_BFE: Tensor | None, norm: RMSNorm, ctx: ForwardContext,
                 layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values as `rotate_and_store` gives them, and x + residual."""
        slots = None if ctx.write is None else ctx.write.slots(layer)
        after = self.num_heads, self._view(ctx, layer).rope, self._qk_norm(), slots
        if self._fuses(x_BFE, norm):
            projection = Projection(norm.weight, norm.eps, self.qkv_proj.weight, self.qkv_proj.bias, self.head_width)
            return project_and_store.project_and_store(x_BFE, residual_BFE, projection, *after)
        x_BFE, stream_BFE = by_position(norm, x_BFE, residual_BFE)
        qkv_BFHD = by_position(self._normed, by_position(self.qkv_proj, x_BFE)).unflatten(-1, (-1, self.head_width))
        return (*rotate_and_store(qkv_BFHD, *after), stream_BFE)

    def _fuses(self, x_BFE: Tensor, norm: RMSNorm) -> bool:
        """Whether the norm, the product and what follows are one launch."""
        return (project_and_store.pays(x_BFE, self.qkv_proj.weight) and not is_batch_invariant()
                and is_plain(self.qkv_proj, Linear) and is_plain(norm, RMSNorm)
                and not self._is_apart and self.clip is None)

    @property
    def _norms_apart(self) -> bool:
        """Whether queries and keys are normalised otherwise than `rotate_and_store` does."""
        return self.is_joint or isinstance(self.q_norm, FloatRMSNorm)

    @property
    def _is_apart(self) -> bool:
        """Whether queries, keys and values need more than `rotate_and_store` does to them."""
        return self._norms_apart or self.query_scale is not None or self.value_norm or self.values_are_keys

    def _normed(self, qkv_BFN: Tensor) -> Tensor:
        """What comes of queries, keys and values before `rotate_and_store`."""
        if self._is_apart:
            qkv_BFN = self._apart(qkv_BFN)
        return qkv_BFN if self.clip is None else qkv_BFN.clamp(-self.clip, self.clip)

    def _apart(self, qkv_BFN: Tensor) -> Tensor:
        """With the norms, the scale and the values that `rotate_and_store` does not have."""
        q_width, kv_width = self.num_heads * self.head_width, self.num_kv_heads * self.head_width
        q_BFN, k_BFN = qkv_BFN[..., : q_width + kv_width].split((q_width, kv_width), dim=-1)
        v_BFN = qkv_BFN[..., -kv_width:]
        if self._norms_apart and self.q_norm is not None and self.k_norm is not None:
            q_BFN, k_BFN = (norm(x_BFN.unflatten(-1, (-1, len(norm.weight))), None)[0].flatten(-2)
                            for norm, x_BFN in ((self.q_norm, q_BFN), (self.k_norm, k_BFN)))
        if self.query_scale is not None:
            q_BFN = q_BFN * self.query_scale
        if self.value_norm:
            v_BFN = unit_norm(v_BFN.unflatten(-1, (-1, self.head_width)), self.norm_eps).flatten(-2)
        return torch.cat((q_BFN, k_BFN, v_BFN), dim=-1)

    def _qk_norm(self) -> QKNorm | None:
        if self.q_norm is None or self.k_norm is None or self._norms_apart:
            return None
        return QKNorm(self.q_norm.weight, self.k_norm.weight, self.norm_eps)


class SwiGLU(nn.Module):
    def __init__(self, width: int, ffn_width: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_up_proj = Linear(width, 2 * ffn_width, bias=bias)
        self.down_proj = Linear(ffn_width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """The network's output of x [..., E]."""
        weight_GE = self.gate_up_proj.weight
        if gate_up.pays(x, weight_GE) and is_plain(self.gate_up_proj, Linear) and self.gate_up_proj.bias is None:
            return self.down_proj(gate_up.gate_up_swiglu(x.flatten(0, -2), weight_GE)).view_as(x)
        return self.down_proj(swiglu(self.gate_up_proj(x)))


class GeGLU(nn.Module):
    """SwiGLU with GELU's tanh approximation in SiLU's place (arXiv 2002.05202, Gemma)."""

    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.gate_up_proj = Linear(width, 2 * ffn_width, bias=False)
        self.down_proj = Linear(ffn_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The network's output of x [..., E]."""
        return self.down_proj(geglu(self.gate_up_proj(x)))


def geglu(gate_up: Tensor) -> Tensor:
    """GELU's tanh approximation of the first half of the last dimension, times the second."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up
