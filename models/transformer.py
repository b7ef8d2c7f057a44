"""One transformer for both families; causal, bidirectional or block-causal is a field of its configuration.

Pre-norm blocks: x += attention(norm(x)); x += down(silu(gate(norm(x))) * up(norm(x))). RMSNorm (arXiv 1910.07467),
rotate-half RoPE on the first `rope_fraction` of each head (arXiv 2104.09864), grouped-query attention (2305.13245),
SwiGLU (2002.05202).

Tensor names: B rows, F fed positions, C context, E width, H heads, K key/value heads, D head width, V vocabulary.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.attention import attention
from ..kernels.checks import check_integer, check_real
from ..kernels.dispatch import Implementation, decide
from ..kernels.rms_norm import add_rms_norm, rms_norm
from ..kernels.rotate_and_store import rotate_and_store, rotated
from ..kernels.swiglu import swiglu
from .attention import AttentionPattern, View
from .kv_store import KVWrite


@dataclass(frozen=True)
class Shape:
    """What a matched pair has in common.

    `position_table` adds a learned vector per position: without it a bidirectional model with RoPE alone gives every
    position of an all-mask canvas the same logits. `rope_fraction` is the share of each head that is rotated."""

    width: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 4
    ffn_width: int = 344
    rope_fraction: float = 1.0
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    qk_norm: bool = False
    position_table: bool = True
    tied_embeddings: bool = False
    qkv_bias: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "num_layers", "num_heads", "num_kv_heads", "ffn_width"):
            check_integer(name, getattr(self, name))
        check_real("rope_fraction", self.rope_fraction, at_least=0, at_most=1)
        check_real("rope_theta", self.rope_theta, above=0)
        check_real("norm_eps", self.norm_eps, above=0)
        if self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads}: must divide width={self.width}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads={self.num_kv_heads}: must divide num_heads={self.num_heads}")
        if self.rope_width % 2:
            raise ValueError(f"rope_fraction={self.rope_fraction}: must rotate an even number of the head's "
                             f"{self.head_width} dimensions, not {self.rope_width}")

    @property
    def head_width(self) -> int:
        return self.width // self.num_heads

    @property
    def rope_width(self) -> int:
        return round(self.head_width * self.rope_fraction)


@dataclass(frozen=True)
class TransformerConfig:
    """A shape made concrete for one vocabulary, one longest sequence and one family."""

    vocab_size: int
    max_length: int
    attention: AttentionPattern
    shape: Shape = Shape()

    def __post_init__(self) -> None:
        check_integer("vocab_size", self.vocab_size, at_least=2)
        check_integer("max_length", self.max_length)

    def num_matrix_parameters(self) -> int:
        """Weights that each fed position is multiplied with in all layers (no embeddings, no head, no norms)."""
        s = self.shape
        qkv = s.width * s.head_width * (s.num_heads + 2 * s.num_kv_heads)
        return s.num_layers * (qkv + s.width * s.width + 3 * s.width * s.ffn_width)

    def forward_flops(self, num_fed: int, num_keys_seen: int, num_queried: int) -> int:
        """FLOPs of forwards that feed `num_fed` positions, which see `num_keys_seen` keys in all, and run the head at
        `num_queried` positions: two a weight, and 4 H D a (query, key) pair and layer."""
        s = self.shape
        attention = 4 * s.num_layers * s.width * num_keys_seen
        return 2 * self.num_matrix_parameters() * num_fed + attention + 2 * s.width * self.vocab_size * num_queried

    def kv_bytes_per_position(self, bytes_per_element: int = 4) -> int:
        """Bytes of keys and values that one stored position takes."""
        return 2 * self.shape.num_layers * self.shape.num_kv_heads * self.shape.head_width * bytes_per_element

    def forward_bytes(self, num_stored_read: int, num_queried: int, bytes_per_element: int = 4) -> int:
        """Bytes one forward must read at least: the layers' weights, the head if it runs, and the keys and values of
        `num_stored_read` stored positions. Activations are taken to stay in cache."""
        head = self.shape.width * self.vocab_size if num_queried else 0
        weights = (self.num_matrix_parameters() + head) * bytes_per_element
        return weights + num_stored_read * self.kv_bytes_per_position(bytes_per_element)


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def of_sum(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """The norm of x + delta, and x + delta itself; None adds nothing."""
        if delta is None:
            return rms_norm(x, self.weight, self.eps), x
        return add_rms_norm(x, delta, self.weight, self.eps)


@dataclass(frozen=True)
class Feed:
    """One forward: the fed positions (int64 [B, F] or [1, F]), what they see, and where their keys and values go (None:
    nowhere). Worked out once for all layers."""

    positions_BF: Tensor
    view: View
    write: KVWrite | None
    cos_LD: Tensor
    sin_LD: Tensor

    @cached_property
    def rope(self) -> tuple[Tensor, Tensor]:
        """cos and sin of the fed positions, each [B, F, 1, D]."""
        return self.cos_LD[self.positions_BF].unsqueeze(-2), self.sin_LD[self.positions_BF].unsqueeze(-2)


def attend(q_BFHD: Tensor, k_BCKD: Tensor, v_BCKD: Tensor, view: View) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over the visible keys, [B, F, H, D], in float32 under autocast: in bfloat16 PyTorch's
    backward takes several times as long on a CPU as all matrix products together."""
    if decide("attention", (q_BFHD, k_BCKD, v_BCKD)) is Implementation.TRITON:
        return attention(q_BFHD, k_BCKD, v_BCKD, None, view.stop_BF, None, None)
    grouped = q_BFHD.shape[2] != k_BCKD.shape[2]
    q_BHFD, k_BKCD, v_BKCD = (x.transpose(1, 2) for x in (q_BFHD, k_BCKD, v_BCKD))
    if not torch.is_autocast_enabled(q_BFHD.device.type):
        mixed_BHFD = F.scaled_dot_product_attention(q_BHFD, k_BKCD, v_BKCD, attn_mask=view.mask_B1FC,
                                                    enable_gqa=grouped)
    else:
        with torch.autocast(q_BFHD.device.type, enabled=False):
            mixed_BHFD = F.scaled_dot_product_attention(q_BHFD.float(), k_BKCD.float(), v_BKCD.float(),
                                                        attn_mask=view.mask_B1FC, enable_gqa=grouped)
    return mixed_BHFD.transpose(1, 2)


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

    def forward(self, x_BFE: Tensor, feed: Feed, layer: int, index_BQ: Tensor | None) -> Tensor:
        qkv_BFHD = self.qkv_proj(x_BFE).unflatten(-1, (-1, self.head_width))
        q_BFHD, k_BCKD, v_BCKD = self._rotated_and_stored(qkv_BFHD, feed, layer)
        view = feed.view
        if index_BQ is not None:
            q_BFHD = q_BFHD.gather(1, index_BQ[:, :, None, None].expand(-1, -1, *q_BFHD.shape[2:]))
            view = view.at(index_BQ)
        return self.o_proj(attend(q_BFHD, k_BCKD, v_BCKD, view).flatten(2))

    def _rotated_and_stored(self, qkv_BFHD: Tensor, feed: Feed, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the fed positions; keys and values of all that they may see."""
        q_weight_D = None if self.q_norm is None else self.q_norm.weight
        k_weight_D = None if self.k_norm is None else self.k_norm.weight
        if decide("rotate_and_store", (qkv_BFHD,)) is Implementation.REFERENCE:
            q_BFHD, k_BFKD, v_BFKD = rotated(qkv_BFHD, feed.rope, q_weight_D, k_weight_D, self.norm_eps, self.num_heads)
            if not torch.is_autocast_enabled(qkv_BFHD.device.type):
                q_BFHD, k_BFKD = q_BFHD.to(v_BFKD.dtype), k_BFKD.to(v_BFKD.dtype)
            return q_BFHD, *((k_BFKD, v_BFKD) if feed.write is None else feed.write.put(layer, k_BFKD, v_BFKD))
        num_rows, num_fed = qkv_BFHD.shape[:2]
        if feed.write is None:
            size = (num_rows * num_fed, self.num_kv_heads, self.head_width)
            keys_SKD, values_SKD = qkv_BFHD.new_empty(size), qkv_BFHD.new_empty(size)
            slots_T = torch.arange(num_rows * num_fed, device=qkv_BFHD.device)
        else:
            keys_SKD, values_SKD = feed.write.slots(layer)
            slots_T = feed.write.flat_slots_T
        q_BFHD = rotate_and_store(qkv_BFHD, feed.positions_BF, feed.cos_LD, feed.sin_LD, q_weight_D, k_weight_D,
                                  self.norm_eps, self.num_heads, keys_SKD, values_SKD, slots_T)
        if feed.write is None:
            return q_BFHD, keys_SKD.unflatten(0, (num_rows, num_fed)), values_SKD.unflatten(0, (num_rows, num_fed))
        return q_BFHD, *feed.write.context_of(layer)


class SwiGLU(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(shape.width, 2 * shape.ffn_width, bias=False)
        self.down_proj = nn.Linear(shape.ffn_width, shape.width, bias=False)

    def forward(self, x_BFE: Tensor) -> Tensor:
        return self.down_proj(swiglu(self.gate_up_proj(x_BFE)))


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.width, shape.norm_eps)
        self.attention = Attention(shape)
        self.ffn_norm = RMSNorm(shape.width, shape.norm_eps)
        self.ffn = SwiGLU(shape)

    def forward(self, x_BFE: Tensor, delta_BFE: Tensor | None, feed: Feed, layer: int, index_BQ: Tensor | None
                ) -> tuple[Tensor, Tensor]:
        """The residual stream and what the layer's feed-forward adds to it, which the next norm sums: both at the fed
        positions, or at those that index_BQ [B, Q] picks, [B, Q, E]. delta is what the layer before adds."""
        normed_BFE, x_BFE = self.attention_norm.of_sum(x_BFE, delta_BFE)
        attended_BQE = self.attention(normed_BFE, feed, layer, index_BQ)
        if index_BQ is not None:
            x_BFE = x_BFE.gather(1, index_BQ[..., None].expand(-1, -1, x_BFE.shape[-1]))
        normed_BQE, x_BQE = self.ffn_norm.of_sum(x_BFE, attended_BQE)
        return x_BQE, self.ffn(normed_BQE)


class Transformer(nn.Module):
    """`hidden` gives the normalised last states, `head` the logits: decoders run the head only where they choose."""

    cos_LD: Tensor
    sin_LD: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        shape = config.shape
        self.embedding = nn.Embedding(config.vocab_size, shape.width)
        # One position past the last stands for "no position": decoders feed it to fill ragged rows.
        num_positions = config.max_length + 1
        self.position_table = nn.Embedding(num_positions, shape.width) if shape.position_table else None
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.norm = RMSNorm(shape.width, shape.norm_eps)
        self.head = nn.Linear(shape.width, config.vocab_size, bias=False)
        if shape.tied_embeddings:
            self.head.weight = self.embedding.weight
        half = shape.rope_width // 2
        frequency = shape.rope_theta ** (-torch.arange(half, dtype=torch.float64) / max(half, 1))
        angle = torch.arange(num_positions)[:, None] * frequency
        self.register_buffer("cos_LD", torch.cat((angle.cos(), angle.cos()), -1).float(), persistent=False)
        self.register_buffer("sin_LD", torch.cat((-angle.sin(), angle.sin()), -1).float(), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Normal weights of variance 1 / fan-in; matrices that write to the residual stream start at zero."""
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "bias")):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)

    def hidden(self, tokens_BF: Tensor, positions_BF: Tensor, view: View, write: KVWrite | None = None,
               index_BQ: Tensor | None = None) -> Tensor:
        """Normalised last hidden states, float [B, F, E], of tokens at positions (int64 [B, F]; B of positions may be
        1), or [B, Q, E] at those that index_BQ picks of the F: the last layer then computes no more. The view says
        which keys each fed position sees: the fed ones, or the store's first C slots when `write` puts the fed ones
        there."""
        x_BFE = self.embedding(tokens_BF)
        if self.position_table is not None:
            x_BFE = x_BFE + self.position_table(positions_BF)
        feed, delta_BFE = Feed(positions_BF, view, write, self.cos_LD, self.sin_LD), None
        last = len(self.blocks) - 1
        for layer, block in enumerate(self.blocks):
            x_BFE, delta_BFE = block(x_BFE, delta_BFE, feed, layer, index_BQ if layer == last else None)
        return self.norm.of_sum(x_BFE, delta_BFE)[0]

    def sequence_hidden(self, tokens_BL: Tensor) -> Tensor:
        """Hidden states [B, L, E] of whole sequences under the configured attention pattern."""
        positions_1L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)[None]
        return self.hidden(tokens_BL, positions_1L, View(self.config.attention, positions_1L, positions_1L))

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())
