"""Our transformer as public code calls a model, independent of the engine's forward so that a defect in either shows.

Plain scaled-dot-product attention over all heads, rotate-half RoPE, keys and values kept by the caller:

    k, v = merge(layer, k, v)        keys and values that the fed positions see: the caller's cache, or k and v
    x += o(softmax(q k^T / sqrt(D)) v);  x += down(silu(gate(x)) up(x))
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models import DecodableTransformer, Plan

# Not -inf: guidance takes the difference of two banned logits.
BANNED = -1e9
Merge = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps a layer's number and the fed positions' keys (rotated) and values, each [B, K, F, D], to the keys and values
that they see, each [B, K, C, D]."""


@dataclass(frozen=True)
class Whole:
    """The simplest call: token rows in, an object with the logits of all positions out, the mask id banned. The forward
    is the engine's."""

    model: DecodableTransformer

    @property
    def device(self) -> torch.device:
        return self.model.spec.device

    @torch.no_grad()
    def __call__(self, tokens_BL: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        """An attention mask must be all ones, since nothing is padded."""
        assert attention_mask is None or bool((attention_mask == 1).all())
        position_BL = torch.arange(tokens_BL.shape[1], device=self.device).expand_as(tokens_BL).contiguous()
        spare_BS = F.pad(tokens_BL, (0, 1))
        logits_BLV = self.model.logits(self.model.hidden(spare_BS, Plan(position_BL), None))
        logits_BLV[..., self.model.mask_id] = BANNED
        return SimpleNamespace(logits=logits_BLV)


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def _rotated(x_BHFD: Tensor, cos_BFD: Tensor, sin_BFD: Tensor) -> Tensor:
    half = x_BHFD.shape[-1] // 2
    turned_BHFD = torch.cat((-x_BHFD[..., half:], x_BHFD[..., :half]), dim=-1)
    return x_BHFD * cos_BFD[:, None] + turned_BHFD * sin_BFD[:, None]


@torch.no_grad()
def logits_of(model: DecodableTransformer, tokens_BF: Tensor, position_BF: Tensor, merge: Merge,
              visible_BFC: Tensor | None = None) -> Tensor:
    """Logits [B, F, V], the mask id banned, of tokens (int64) at positions (int64). They see the keys that `merge`
    returns where visible_BFC (bool; None: everywhere) is true. Dense shapes without query and key norms; the model's
    shift is not applied: row f is the network's output at position f."""
    transformer, shape = model.transformer, model.config.shape
    assert shape.experts is None
    assert not shape.qk_norm
    assert shape.rope_fraction == 1
    half, width = shape.head_width // 2, shape.head_width
    frequency = shape.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle_BFD = (position_BF[..., None] * frequency).repeat(1, 1, 2)
    cos_BFD, sin_BFD = angle_BFD.cos().float(), angle_BFD.sin().float()
    x_BFE = transformer.embedding(tokens_BF)
    if transformer.position_table is not None:
        x_BFE = x_BFE + transformer.position_table(position_BF)
    weights = dict(transformer.named_parameters())
    for layer in range(shape.num_layers):
        own = {name.removeprefix(f"blocks.{layer}."): weight for name, weight in weights.items()
               if name.startswith(f"blocks.{layer}.")}
        qkv_BFW = F.linear(_norm(x_BFE, own["attention_norm.weight"], shape.norm_eps), own["attention.qkv_proj.weight"],
                           own.get("attention.qkv_proj.bias"))
        q_BHFD, k_BKFD, v_BKFD = (part.unflatten(-1, (-1, width)).transpose(1, 2) for part in qkv_BFW.split(
            [width * heads for heads in (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)], dim=-1))
        k_BKCD, v_BKCD = merge(layer, _rotated(k_BKFD, cos_BFD, sin_BFD), v_BKFD)
        k_BHCD, v_BHCD = (x.repeat_interleave(shape.num_heads // shape.num_kv_heads, dim=1) for x in (k_BKCD, v_BKCD))
        score_BHFC = _rotated(q_BHFD, cos_BFD, sin_BFD) @ k_BHCD.mT / width ** 0.5
        if visible_BFC is not None:
            score_BHFC = score_BHFC.masked_fill(~visible_BFC[:, None], -torch.inf)
        mixed_BFE = (score_BHFC.softmax(-1) @ v_BHCD).transpose(1, 2).flatten(2)
        x_BFE = x_BFE + F.linear(mixed_BFE, own["attention.o_proj.weight"])
        gate_BFU, up_BFU = F.linear(_norm(x_BFE, own["ffn_norm.weight"], shape.norm_eps),
                                    own["ffn.gate_up_proj.weight"]).chunk(2, dim=-1)
        x_BFE = x_BFE + F.linear(F.silu(gate_BFU) * up_BFU, own["ffn.down_proj.weight"])
    logits_BFV = F.linear(_norm(x_BFE, transformer.norm.weight, shape.norm_eps), transformer.head.weight)
    logits_BFV[..., model.mask_id] = BANNED
    return logits_BFV
