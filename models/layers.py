"""Layers of a transformer block: RMSNorm (arXiv 1910.07467), rotate-half RoPE on the first `rope_fraction` of each head
(2104.09864), grouped-query attention (2305.13245) over the fed positions or a KV store, SwiGLU (2002.05202).

Tensor names: B rows, F fed positions, C context, E width, H heads, K key/value heads, D head width.
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from ..kernels import gate_up, project_and_store
from ..kernels.attention import attention
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


@dataclass(frozen=True)
class ForwardContext:
    """What all layers share in one forward: the rotary angles of the fed positions, the attention mask, and the write
    of keys and values (None: not stored)."""

    rope: Rope
    mask: AttentionMask
    write: KVWrite | None


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
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_width = shape.num_heads, shape.num_kv_heads, shape.head_width
        self.qkv_proj = Linear(shape.width, (self.num_heads + 2 * self.num_kv_heads) * self.head_width,
                                  bias=shape.qkv_bias)
        self.o_proj = Linear(shape.width, shape.width, bias=False)
        self.q_norm = RMSNorm(self.head_width, shape.norm_eps) if shape.qk_norm else None
        self.k_norm = RMSNorm(self.head_width, shape.norm_eps) if shape.qk_norm else None
        self.norm_eps = shape.norm_eps

    def forward(self, x_BFE: Tensor, residual_BFE: Tensor | None, norm: RMSNorm, ctx: ForwardContext, layer: int,
                index_BQ: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attention over the norm of x + residual, [B, Q, E], and x + residual itself, [B, F, E]."""
        q_BFHD, keys_SKD, values_SKD, stream_BFE = self._project(x_BFE, residual_BFE, norm, ctx, layer)
        if ctx.write is None:
            k_BCKD, v_BCKD = (x_SKD.unflatten(0, x_BFE.shape[:2]) for x_SKD in (keys_SKD, values_SKD))
        else:
            k_BCKD, v_BCKD = ctx.write.context_of(layer)
        mask = ctx.mask
        if index_BQ is not None:
            q_BFHD = q_BFHD.gather(1, index_BQ[:, :, None, None].expand(-1, -1, *q_BFHD.shape[2:]))
            mask = mask.at(index_BQ)
        attend = _attend_by_query if is_batch_invariant() else attention
        return by_position(self.o_proj, attend(q_BFHD, k_BCKD, v_BCKD, mask).flatten(2)), stream_BFE

    def _project(self, x_BFE: Tensor, residual_BFE: Tensor | None, norm: RMSNorm, ctx: ForwardContext, layer: int
                 ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values as `rotate_and_store` gives them, and x + residual."""
        slots = None if ctx.write is None else ctx.write.slots(layer)
        after = self.num_heads, ctx.rope, self._qk_norm(), slots
        if self._fuses(x_BFE, norm):
            projection = Projection(norm.weight, norm.eps, self.qkv_proj.weight, self.qkv_proj.bias, self.head_width)
            return project_and_store.project_and_store(x_BFE, residual_BFE, projection, *after)
        x_BFE, stream_BFE = by_position(norm, x_BFE, residual_BFE)
        qkv_BFHD = by_position(self.qkv_proj, x_BFE).unflatten(-1, (-1, self.head_width))
        return (*rotate_and_store(qkv_BFHD, *after), stream_BFE)

    def _fuses(self, x_BFE: Tensor, norm: RMSNorm) -> bool:
        """Whether the norm, the product and what follows are one launch."""
        return (project_and_store.pays(x_BFE, self.qkv_proj.weight) and not is_batch_invariant()
                and is_plain(self.qkv_proj, Linear) and is_plain(norm, RMSNorm))

    def _qk_norm(self) -> QKNorm | None:
        if self.q_norm is None or self.k_norm is None:
            return None
        return QKNorm(self.q_norm.weight, self.k_norm.weight, self.norm_eps)


class SwiGLU(nn.Module):
    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.gate_up_proj = Linear(width, 2 * ffn_width, bias=False)
        self.down_proj = Linear(ffn_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The network's output of x [..., E]."""
        weight_GE = self.gate_up_proj.weight
        if gate_up.pays(x, weight_GE) and is_plain(self.gate_up_proj, Linear):
            return self.down_proj(gate_up.gate_up_swiglu(x.flatten(0, -2), weight_GE)).view_as(x)
        return self.down_proj(swiglu(self.gate_up_proj(x)))
