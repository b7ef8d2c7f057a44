"""One transformer for both families; causal, bidirectional or block-causal is a field of its configuration.

Pre-norm blocks: x += attention(norm(x)); x += ffn(norm(x)), where ffn is a SwiGLU network or a mixture of them.

Tensor names: B rows, F fed positions, C context, E width, V vocabulary.
"""

import torch
from torch import Tensor, nn

from ..kernels.batch_invariance import by_position
from ..kernels.rotate_and_store import Rope
from .attention import View
from .config import Shape, TransformerConfig
from .kv_store import KVWrite
from .layers import Attention, Feed, RMSNorm, SwiGLU
from .mixture import Mixture


class Block(nn.Module):
    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.width, shape.norm_eps)
        self.attention = Attention(shape)
        self.ffn_norm = RMSNorm(shape.width, shape.norm_eps)
        if shape.experts is None or layer < shape.num_dense_layers:
            self.ffn = SwiGLU(shape.width, shape.ffn_width)
        else:
            self.ffn = Mixture(shape.width, shape.experts)

    def forward(self, x_BFE: Tensor, delta_BFE: Tensor | None, feed: Feed, layer: int, index_BQ: Tensor | None
                ) -> tuple[Tensor, Tensor]:
        """The residual stream and what the layer's feed-forward adds to it, which the next norm sums: both at the fed
        positions, or at those that index_BQ [B, Q] picks, [B, Q, E]. delta is what the layer before adds."""
        normed_BFE, x_BFE = by_position(self.attention_norm.of_sum, x_BFE, delta_BFE)
        attended_BQE = self.attention(normed_BFE, feed, layer, index_BQ)
        if index_BQ is not None:
            x_BFE = x_BFE.gather(1, index_BQ[..., None].expand(-1, -1, x_BFE.shape[-1]))
        normed_BQE, x_BQE = by_position(self.ffn_norm.of_sum, x_BFE, attended_BQE)
        return x_BQE, by_position(self.ffn, normed_BQE)


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
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.num_layers))
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
            if name.endswith(("o_proj.weight", "down_proj.weight", "down_XEM", "bias")):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
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
        feed, delta_BFE = Feed(Rope(positions_BF, self.cos_LD, self.sin_LD), view, write), None
        last = len(self.blocks) - 1
        for layer, block in enumerate(self.blocks):
            x_BFE, delta_BFE = block(x_BFE, delta_BFE, feed, layer, index_BQ if layer == last else None)
        return by_position(self.norm.of_sum, x_BFE, delta_BFE)[0]

    def sequence_hidden(self, tokens_BL: Tensor, index_BQ: Tensor | None = None) -> Tensor:
        """Hidden states of whole sequences under the configured attention pattern: [B, L, E], or [B, Q, E] at the
        positions that index_BQ (int64) picks."""
        positions_1L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)[None]
        view = View(self.config.attention, positions_1L, positions_1L)
        return self.hidden(tokens_BL, positions_1L, view, index_BQ=index_BQ)

    def num_parameters(self) -> int:
        """All weights, those of every expert included."""
        return sum(p.numel() for p in self.parameters())

    def num_active_parameters(self) -> int:
        """Of these, all but the experts that a position does not choose."""
        return self.num_parameters() - self.config.num_matrix_parameters() + self.config.num_active_matrix_parameters()
