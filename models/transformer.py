"""One transformer for both families; causal, bidirectional or block-causal is a field of its configuration.

Pre-norm blocks: x += attention(norm(x)); x += down(silu(gate(norm(x))) * up(norm(x))). RMSNorm (arXiv 1910.07467),
rotate-half RoPE on the first `rope_fraction` of each head (arXiv 2104.09864), grouped-query attention (2305.13245),
SwiGLU (2002.05202).

Tensor names: B rows, F fed positions, C context, E width, H heads, K key/value heads, D head width, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.checks import check_integer, check_real
from .attention import AttentionPattern
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

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotate(x_BFHD: Tensor, cos_BF1D: Tensor, sin_BF1D: Tensor) -> Tensor:
    """Rotate-half RoPE on the first cos.shape[-1] dimensions of each head; `sin` carries the sign of the first half."""
    rotated_width = cos_BF1D.shape[-1]
    if rotated_width == 0:
        return x_BFHD
    turned, kept = x_BFHD[..., :rotated_width], x_BFHD[..., rotated_width:]
    turned = torch.addcmul(turned * cos_BF1D, turned.roll(rotated_width // 2, -1), sin_BF1D)
    return turned if not kept.shape[-1] else torch.cat((turned, kept), dim=-1)


def attend(q_BHFD: Tensor, k_BKCD: Tensor, v_BKCD: Tensor, visible_B1FC: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over the visible keys, [B, H, F, D], in float32 under autocast: in bfloat16 this
    kernel's backward takes several times as long on a CPU as all matrix products together."""
    grouped = q_BHFD.shape[1] != k_BKCD.shape[1]
    if not torch.is_autocast_enabled(q_BHFD.device.type):
        return F.scaled_dot_product_attention(q_BHFD, k_BKCD, v_BKCD, attn_mask=visible_B1FC, enable_gqa=grouped)
    with torch.autocast(q_BHFD.device.type, enabled=False):
        return F.scaled_dot_product_attention(q_BHFD.float(), k_BKCD.float(), v_BKCD.float(), attn_mask=visible_B1FC,
                                              enable_gqa=grouped)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_width = shape.num_heads, shape.num_kv_heads, shape.head_width
        self.qkv_proj = nn.Linear(shape.width, (self.num_heads + 2 * self.num_kv_heads) * self.head_width,
                                  bias=shape.qkv_bias)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.q_norm = RMSNorm(self.head_width, shape.norm_eps) if shape.qk_norm else None
        self.k_norm = RMSNorm(self.head_width, shape.norm_eps) if shape.qk_norm else None

    def forward(self, x_BFE: Tensor, rope: tuple[Tensor, Tensor], visible_B1FC: Tensor | None, write: KVWrite | None,
                layer: int, index_BQ: Tensor | None) -> Tensor:
        num_qk_heads = self.num_heads + self.num_kv_heads
        qkv_BFHD = self.qkv_proj(x_BFE).unflatten(-1, (-1, self.head_width))
        qk_BFHD, v_BFKD = qkv_BFHD.split((num_qk_heads, self.num_kv_heads), dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q_BFHD, k_BFKD = qk_BFHD.split((self.num_heads, self.num_kv_heads), dim=2)
            qk_BFHD = torch.cat((self.q_norm(q_BFHD), self.k_norm(k_BFKD)), dim=2)
        q_BFHD, k_BFKD = rotate(qk_BFHD, *rope).split((self.num_heads, self.num_kv_heads), dim=2)
        if write is not None:
            k_BFKD, v_BFKD = write.put(layer, k_BFKD, v_BFKD)
        if index_BQ is not None:
            q_BFHD = q_BFHD.gather(1, index_BQ[:, :, None, None].expand(-1, -1, *q_BFHD.shape[2:]))
            if visible_B1FC is not None and visible_B1FC.shape[2] > 1:
                visible_B1FC = visible_B1FC.expand(len(index_BQ), -1, -1, -1).gather(
                    2, index_BQ[:, None, :, None].expand(-1, -1, -1, visible_B1FC.shape[-1]))
        mixed_BHFD = attend(q_BFHD.transpose(1, 2), k_BFKD.transpose(1, 2), v_BFKD.transpose(1, 2), visible_B1FC)
        return self.o_proj(mixed_BHFD.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(shape.width, 2 * shape.ffn_width, bias=False)
        self.down_proj = nn.Linear(shape.ffn_width, shape.width, bias=False)

    def forward(self, x_BFE: Tensor) -> Tensor:
        gate_BFM, up_BFM = self.gate_up_proj(x_BFE).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate_BFM) * up_BFM)


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.width, shape.norm_eps)
        self.attention = Attention(shape)
        self.ffn_norm = RMSNorm(shape.width, shape.norm_eps)
        self.ffn = SwiGLU(shape)

    def forward(self, x_BFE: Tensor, rope: tuple[Tensor, Tensor], visible_B1FC: Tensor | None, write: KVWrite | None,
                layer: int, index_BQ: Tensor | None) -> Tensor:
        """The block's output at the fed positions, or at those that index_BQ [B, Q] picks: [B, Q, E]."""
        attended_BQE = self.attention(self.attention_norm(x_BFE), rope, visible_B1FC, write, layer, index_BQ)
        if index_BQ is not None:
            x_BFE = x_BFE.gather(1, index_BQ[..., None].expand(-1, -1, x_BFE.shape[-1]))
        x_BQE = x_BFE + attended_BQE
        return x_BQE + self.ffn(self.ffn_norm(x_BQE))


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

    def hidden(self, tokens_BF: Tensor, positions_BF: Tensor, visible_BFC: Tensor | None,
               write: KVWrite | None = None, index_BQ: Tensor | None = None) -> Tensor:
        """Normalised last hidden states, float [B, F, E], of tokens at positions (int64 [B, F]; B of positions may be
        1), or [B, Q, E] at those that index_BQ picks of the F: the last layer then computes no more. `visible_BFC`
        (bool, None: all) says which keys each fed position sees: the fed ones, or the store's first C slots when
        `write` puts the fed ones there."""
        x_BFE = self.embedding(tokens_BF)
        if self.position_table is not None:
            x_BFE = x_BFE + self.position_table(positions_BF)
        rope = self.cos_LD[positions_BF].unsqueeze(-2), self.sin_LD[positions_BF].unsqueeze(-2)
        visible_B1FC = None if visible_BFC is None else visible_BFC.unsqueeze(1)
        last = len(self.blocks) - 1
        for layer, block in enumerate(self.blocks):
            x_BFE = block(x_BFE, rope, visible_B1FC, write, layer, index_BQ if layer == last else None)
        return self.norm(x_BFE)

    def sequence_hidden(self, tokens_BL: Tensor) -> Tensor:
        """Hidden states [B, L, E] of whole sequences under the configured attention pattern."""
        positions_1L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)[None]
        return self.hidden(tokens_BL, positions_1L, self.config.attention.visible(positions_1L, positions_1L))

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())
