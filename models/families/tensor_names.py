"""Which tensors of a checkpoint make up each of a Transformer's weights, and their shapes.

Checkpoints keep apart what our products take at once: queries, keys and values, gate and up, the experts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..config import ExpertShape, Shape, TransformerConfig


@dataclass(frozen=True)
class Part:
    """A tensor of a checkpoint."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Assignment:
    """The parts, joined along their first dimension, are the model's tensor `target`, or its row `expert`."""

    target: str
    parts: tuple[Part, ...]
    expert: int | None = None


@dataclass(frozen=True)
class TensorNames:
    """Names as Llama has them, for a family to say where its own differ: those after `layer` within a layer, all
    without ".weight" and ".bias" but for `expert_bias`. `qkv` and `gate_up` are one name each, or as many as are kept
    apart."""

    embedding: str = "model.embed_tokens"
    norm: str = "model.norm"
    head: str = "lm_head"
    layer: str = "model.layers.{layer}."
    attention_norm: str = "input_layernorm"
    ffn_norm: str = "post_attention_layernorm"
    attention_post_norm: str = "post_attention_layernorm"
    ffn_post_norm: str = "post_feedforward_layernorm"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    o: str = "self_attn.o_proj"
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    gate_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"
    router: str = "mlp.gate"
    expert_bias: str = "mlp.gate.expert_bias"
    expert_gate_up: tuple[str, ...] = ("mlp.experts.{expert}.gate_proj", "mlp.experts.{expert}.up_proj")
    expert_down: str = "mlp.experts.{expert}.down_proj"
    shared_gate_up: tuple[str, ...] = ("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj")
    shared_down: str = "mlp.shared_experts.down_proj"

    def assignments(self, config: TransformerConfig) -> Iterator[Assignment]:
        """One for each parameter and buffer of a Transformer, its experts one by one, without a tied head."""
        shape, table = config.shape, (config.vocab_size, config.shape.width)
        yield whole("embedding.weight", self.embedding + ".weight", table)
        if not shape.tied_embeddings:
            yield whole("head.weight", self.head + ".weight", table)
        yield whole("norm.weight", self.norm + ".weight", (shape.width,))
        for layer in range(shape.num_layers):
            for found in self._layer(shape, layer):
                parts = (Part(self.layer.format(layer=layer) + part.name, part.shape) for part in found.parts)
                yield Assignment(f"blocks.{layer}.{found.target}", tuple(parts), found.expert)

    def _layer(self, shape: Shape, layer: int) -> Iterator[Assignment]:
        width = shape.width
        yield whole("attention_norm.weight", self.attention_norm + ".weight", (width,))
        yield whole("ffn_norm.weight", self.ffn_norm + ".weight", (width,))
        if shape.post_norms:
            yield whole("attention_post_norm.weight", self.attention_post_norm + ".weight", (width,))
            yield whole("ffn_post_norm.weight", self.ffn_post_norm + ".weight", (width,))
        heads = shape.heads_of(layer)
        qkv = self.qkv[: len(heads.projected)]
        yield from linear("attention.qkv_proj", qkv, (heads.projected, width), has_bias=shape.qkv_bias)
        yield from linear("attention.o_proj", (self.o,), ([width], heads.num_heads * heads.width),
                           has_bias=shape.o_bias)
        if shape.qk_norm:
            q_width, k_width = heads.projected[:2] if shape.joint_qk_norm else (heads.width, heads.width)
            yield whole("attention.q_norm.weight", self.q_norm + ".weight", (q_width,))
            yield whole("attention.k_norm.weight", self.k_norm + ".weight", (k_width,))
        if shape.experts is not None and not shape.is_dense(layer) and not shape.experts.beside_dense:
            yield from self._mixture(shape.experts, width)
            return
        ffn_width, has_bias = shape.ffn_width, shape.ffn_bias
        yield from linear("ffn.gate_up_proj", self.gate_up, ([ffn_width] * 2, width), has_bias=has_bias)
        yield from linear("ffn.down_proj", (self.down,), ([width], ffn_width), has_bias=has_bias)

    def _mixture(self, experts: ExpertShape, width: int) -> Iterator[Assignment]:
        inner, shared = experts.expert_width, experts.shared_width
        yield whole("ffn.router.weight", self.router + ".weight", (experts.num_experts, width))
        if experts.selection_bias:
            yield whole("ffn.router.bias_X", self.expert_bias, (experts.num_experts,))
        for expert in range(experts.num_experts):
            gate_up = (Part(name.format(expert=expert) + ".weight", (inner, width)) for name in self.expert_gate_up)
            yield Assignment("ffn.gate_up_XGE", tuple(gate_up), expert)
            down = Part(self.expert_down.format(expert=expert) + ".weight", (width, inner))
            yield Assignment("ffn.down_XEM", (down,), expert)
        if shared:
            yield from linear("ffn.shared.gate_up_proj", self.shared_gate_up, ([shared] * 2, width), has_bias=False)
            yield from linear("ffn.shared.down_proj", (self.shared_down,), ([width], shared), has_bias=False)


def whole(target: str, name: str, shape: tuple[int, ...]) -> Assignment:
    return Assignment(target, (Part(name, shape),))


def linear(target: str, names: tuple[str, ...], size: tuple[list[int], int], *, has_bias: bool
            ) -> Iterator[Assignment]:
    """The weight and bias of a layer whose outputs are so many for each name, or all for one name."""
    outputs, width = size
    outputs = outputs if len(names) > 1 else [sum(outputs)]
    each = list(zip(names, outputs, strict=True))
    yield Assignment(f"{target}.weight", tuple(Part(f"{name}.weight", (number, width)) for name, number in each))
    if has_bias:
        yield Assignment(f"{target}.bias", tuple(Part(f"{name}.bias", (number,)) for name, number in each))
