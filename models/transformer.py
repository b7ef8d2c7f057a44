"""One transformer for both families. Causal, bidirectional or block-causal attention is a field of its configuration.

Pre-norm blocks: x += attention(norm(x)); x += ffn(norm(x)), where ffn is a SwiGLU network or a mixture of experts.

Tensor names: B rows, F fed positions, C context, E width, V vocabulary.
"""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

from ..kernels.batch_invariance import by_position
from ..kernels.host_memory import free_memory_bytes
from ..kernels.rotate_and_store import Rope
from .attention import AttentionMask
from .config import Shape, TransformerConfig
from .dense_beside_experts import DenseBesideExperts
from .kv_store import KVStore, KVWrite
from .layers import Attention, ForwardContext, GeGLU, SwiGLU, View, norm_of
from .linear import CappedLinear, Embedding, Linear
from .mixture import MoELayer, Router
from .only_packed import OnlyPacked
from .quantized_parameter import QuantizedParameter
from .rope import RopeScaling, frequencies, rotary_tables
from .self_conditioning import SelfConditioning, of_canvas


class Block(nn.Module):
    layer_scale_1: Tensor | None
    denoiser_scale_1: Tensor | None

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.attention_norm = norm_of(shape, shape.width)
        self.attention = Attention(shape, layer)
        self.ffn_norm = norm_of(shape, shape.width)
        if shape.experts is not None and not shape.is_dense(layer):
            beside = shape.experts.beside_dense
            self.ffn = DenseBesideExperts(shape, shape.experts) if beside else MoELayer(shape.width, shape.experts)
        elif shape.gelu:
            self.ffn = GeGLU(shape.width, shape.ffn_width)
        else:
            self.ffn = SwiGLU(shape.width, shape.ffn_width, bias=shape.ffn_bias)
        self.attention_post_norm = self.ffn_post_norm = None
        if shape.post_norms:
            self.attention_post_norm, self.ffn_post_norm = norm_of(shape, shape.width), norm_of(shape, shape.width)
        self.register_buffer("layer_scale_1", torch.ones(1) if shape.layer_scales else None)
        has_own = shape.layer_scales and shape.denoiser
        self.register_buffer("denoiser_scale_1", torch.ones(1) if has_own else None)

    def forward(self, x_BFE: Tensor, residual_BFE: Tensor | None, ctx: ForwardContext, layer: int,
                index_BQ: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The output of the feed-forward layer and the residual stream that it is still to be added to (None: it has
        been), as the next norm takes them: at the fed positions [B, F, E], or at those of index_BQ, [B, Q, E]."""
        x_BQE, stream_BQE = self.attention(x_BFE, residual_BFE, self.attention_norm, ctx, layer, index_BQ)
        if index_BQ is not None:
            stream_BQE = stream_BQE.gather(1, index_BQ[..., None].expand(-1, -1, stream_BQE.shape[-1]))
        if self.attention_post_norm is not None:
            x_BQE = by_position(self.attention_post_norm, x_BQE, None)[0]
        x_BQE, residual_BQE = by_position(self.ffn_norm, x_BQE, stream_BQE)
        given = (residual_BQE,) if isinstance(self.ffn, DenseBesideExperts) else ()
        x_BQE = by_position(self.ffn, x_BQE, *given)
        if self.ffn_post_norm is not None:
            x_BQE = by_position(self.ffn_post_norm, x_BQE, None)[0]
        scale_1 = self.denoiser_scale_1 if ctx.denoises else self.layer_scale_1
        return (x_BQE, residual_BQE) if scale_1 is None else ((residual_BQE + x_BQE) * scale_1, None)


_TABLES = "cos_LD", "sin_LD", "window_cos_LD", "window_sin_LD"


class Transformer(nn.Module):
    """`hidden` returns the final hidden states, `head` the logits. Decoders run the head at queried positions only."""

    cos_LD: Tensor
    sin_LD: Tensor
    window_cos_LD: Tensor | None
    window_sin_LD: Tensor | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        shape = config.shape
        self.embedding = Embedding(config.vocab_size, shape.width)
        # The position after the last is padding: decoders feed it to fill ragged rows.
        num_positions = config.max_length + 1
        self.position_table = nn.Embedding(num_positions, shape.width) if shape.position_table else None
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.num_layers))
        self.norm = norm_of(shape, shape.width)
        if shape.logit_cap is None:
            self.head = Linear(shape.width, config.vocab_size, bias=False)
        else:
            self.head = CappedLinear(shape.width, config.vocab_size, shape.logit_cap)
        self.self_conditioning = SelfConditioning(shape) if shape.denoiser else None
        if shape.tied_embeddings:
            self.head.weight = self.embedding.weight
        for name in _TABLES:
            self.register_buffer(name, None, persistent=False)
        self.tabulate_angles()
        self._initialise()

    def tabulate_angles(self) -> None:
        """Work out the tables of rotary angles, on the weights' device."""
        shape = self.config.shape
        self.cos_LD, self.sin_LD = self._tables(shape.rope_width, shape.rope_theta, shape.rope_scaling)
        if shape.window_rope_theta is not None:
            self.window_cos_LD, self.window_sin_LD = self._tables(shape.window_rope_width, shape.window_rope_theta,
                                                                  None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Transformer":
        """As nn.Module's, but for the angles, which are moved and never cast."""
        tables = {name: table for name in _TABLES if (table := getattr(self, name)) is not None}
        super()._apply(fn, recurse)
        for name, table in tables.items():
            moved = getattr(self, name)
            if moved.dtype != table.dtype:
                setattr(self, name, table.to(moved.device))
        return self

    def _tables(self, rope_width: int, theta: float, scaling: RopeScaling | None) -> tuple[Tensor, Tensor]:
        with torch.device("cpu"):  # whatever device the model is built on
            frequency_H = frequencies(rope_width, theta, scaling)
            amplitude = 1.0 if scaling is None else scaling.amplitude
            cos_LD, sin_LD = rotary_tables(self.config.max_length + 1, frequency_H, amplitude)
        return cos_LD.to(self.embedding.weight.device), sin_LD.to(self.embedding.weight.device)

    def _initialise(self) -> None:
        """Normal weights of variance 1 / fan-in; matrices that write to the residual stream are zero."""
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "down_XEM", "bias")):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)

    def hidden(self, tokens_BF: Tensor, positions_BF: Tensor, mask: AttentionMask, write: KVWrite | None = None,
               index_BQ: Tensor | None = None, window_mask: AttentionMask | None = None,
               signal_BFE: Tensor | None = None) -> Tensor:
        """Hidden states after the final norm, float [B, F, E], of tokens at positions (int64 [B, F]; B of positions may
        be 1). With index_BQ: those of the fed positions that it picks, [B, Q, E]; the last layer runs only there.

        With `write`, the keys and values of the fed positions go to its store, and queries read the store's first C
        slots. Without, they read those of the fed positions. The mask says which of these keys each query sees, in
        layers with a window window_mask does. With `signal_BFE`, what is known of the tokens beside them, the layers
        denoise: only a model with a denoiser can."""
        x_BFE, residual_BFE = self._scaled(self.embedding(tokens_BF)), None
        if self.position_table is not None:
            x_BFE = x_BFE + self.position_table(positions_BF)
        if signal_BFE is not None:
            assert self.self_conditioning is not None
            x_BFE = by_position(self.self_conditioning, x_BFE, signal_BFE)
        rope = Rope(positions_BF, self.cos_LD, self.sin_LD)
        ctx = ForwardContext(View(rope, mask), self._windowed(rope, window_mask), write, signal_BFE is not None)
        last = len(self.blocks) - 1
        for layer, block in enumerate(self.blocks):
            x_BFE, residual_BFE = block(x_BFE, residual_BFE, ctx, layer, index_BQ if layer == last else None)
        return by_position(self.norm, x_BFE, residual_BFE)[0]

    def _scaled(self, x_BFE: Tensor) -> Tensor:
        """Embeddings times their scale, rounded to their dtype, as Gemma does."""
        scale = self.config.shape.embedding_scale
        return x_BFE if scale is None else x_BFE * torch.full((), scale, dtype=x_BFE.dtype, device=x_BFE.device)

    def _windowed(self, rope: Rope, mask: AttentionMask | None) -> View | None:
        if mask is None:
            return None
        if self.window_cos_LD is not None and self.window_sin_LD is not None:
            rope = Rope(rope.positions_BF, self.window_cos_LD, self.window_sin_LD)
        return View(rope, mask)

    def sequence_hidden(self, tokens_BL: Tensor, index_BQ: Tensor | None = None) -> Tensor:
        """Hidden states of whole sequences under the configured attention pattern: [B, L, E], or [B, Q, E] at the
        positions of index_BQ (int64)."""
        positions_1L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)[None]
        mask = AttentionMask(self.config.attention, positions_1L, positions_1L)
        window_mask = mask.within(self.config.shape.window)
        return self.hidden(tokens_BL, positions_1L, mask, index_BQ=index_BQ, window_mask=window_mask)

    def denoised(self, tokens_BF: Tensor, start: int, store: KVStore, logits_BFV: Tensor | None = None) -> Tensor:
        """Hidden states [B, F, E] of a canvas (int64) that begins at position `start`, all of which sees itself and the
        earlier positions, whose keys and values the store has. logits_BFV are those of the canvas's last step, in any
        float dtype; None in its first. The canvas's own keys and values are written after the earlier ones.

        ValueError for a model without a denoiser."""
        if self.self_conditioning is None:
            raise ValueError("denoiser=False: the model has no denoiser")
        table_VE = self.embedding.weight
        if logits_BFV is None:
            signal_BFE = table_VE.new_zeros(*tokens_BF.shape, table_VE.shape[1])
        else:
            signal_BFE = self._scaled(logits_BFV.softmax(-1, dtype=torch.float32).to(table_VE.dtype) @ table_VE)
        positions_BF, masks, write = of_canvas(tokens_BF, start, store, self.config.shape.window)
        return self.hidden(tokens_BF, positions_BF, masks[0], write, None, masks[1], signal_BFE)

    def pack(self) -> int:
        """Pack the weights of products on a CPU, where it pays and would leave half of the free memory: those of linear
        layers, then those of experts. Returns the bytes that the packed copies take."""
        layers = self.layers_to_pack
        num_bytes, room, taken = sum(layer.num_weight_bytes for layer in layers), free_memory_bytes() // 2, 0
        for layer in layers:
            layer.drop_copy()
        for kind in (Linear, MoELayer):
            paying = [layer for layer in layers if isinstance(layer, kind) and layer.pays(num_bytes)]
            if sum(layer.num_weight_bytes for layer in paying) <= room - taken:
                taken += sum(layer.pack(num_bytes) for layer in paying)
        return taken

    def unpack(self) -> None:
        """Drop the packed copies, and hold as they lie the weights of which they were the only ones."""
        for layer in self.layers_to_pack:
            layer.unpack()

    def dequantize(self) -> None:
        """Hold quantised weights in floats, with the values that were multiplied: to train, move or save them."""
        for layer in self.linear_layers:
            layer.dequantize()

    @property
    def layers_to_pack(self) -> list[Linear | MoELayer]:
        return [module for module in self.modules() if isinstance(module, Linear | MoELayer)]

    @property
    def linear_layers(self) -> list[Linear]:
        return [layer for layer in self.layers_to_pack if isinstance(layer, Linear)]

    @property
    def is_packed(self) -> bool:
        """Whether a weight is packed."""
        return any(layer.packed is not None for layer in self.layers_to_pack)

    @property
    def couples_positions(self) -> bool:
        """Whether a router lets the positions of a row choose their experts together."""
        return any(module.rule.couples_positions for module in self.modules() if isinstance(module, Router))

    @property
    def copied_bytes(self) -> int:
        """How much the weights that are held twice take."""
        return sum(layer.packed.num_bytes for layer in self.linear_layers
                   if layer.packed is not None and not layer.is_only_packed)

    def saved_bytes(self, *, with_head: bool) -> int:
        """How much less the linear layers read than in floats of their dtype, where they are quantised."""
        return sum(layer.in_features * layer.out_features * layer.weight.element_size() - layer.num_weight_bytes
                   for layer in self.linear_layers if layer.is_quantized and (with_head or layer is not self.head))

    def weights_version(self) -> Hashable:
        """Where the weights and tables lie, packed copies included, and how often each was written, as far as PyTorch
        counts."""
        all_tensors = (*self.parameters(), *self.buffers())
        own = (tensor for tensor in all_tensors if not isinstance(tensor, OnlyPacked | QuantizedParameter))
        packed = tuple(layer.packed.identity for layer in self.layers_to_pack if layer.packed is not None)
        quantized = tuple(id(tensor.quantized) for tensor in all_tensors if isinstance(tensor, QuantizedParameter))
        lying = tuple((tensor.data_ptr(), None if tensor.is_inference() else tensor._version) for tensor in own)
        return packed, quantized, lying

    def num_parameters(self) -> int:
        """All parameters, those of every expert included."""
        return sum(p.numel() for p in self.parameters())

    def num_active_parameters(self) -> int:
        """Parameters without those of the experts that a position does not use."""
        return self.num_parameters() - self.config.num_matrix_parameters() + self.config.num_active_matrix_parameters()
