"""Model shape, configuration, and the cost formulas that follow from them.

If T positions select k of X experts independently and uniformly, the expected number of distinct experts per layer is

    E|union| = X (1 - (1 - k / X)^T)

This is an estimate: trained routers prefer some experts, and neighbouring positions select alike.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from ..kernels.checks import check_instance, check_integers, integer_field, real_field
from ..kernels.moe_router import Routing
from .attention import AttentionPattern
from .rope import RopeScaling

# Fields that published shapes need, added when records existed: those keep their names.
_ADDED_LATER = {"added_later": True}


@dataclass(frozen=True)
class ExpertShape:
    """Mixtures of experts in place of dense feed-forward layers, from layer `num_dense_layers` on but for
    `dense_layers`.

    Each expert is a SwiGLU network of `expert_width`. `shared_width` is that of a shared expert, which every position
    passes (0: none). `selection_bias` adds a bias per expert to the scores, for selection only.

    `beside_dense`: the layers have their dense network too, and the experts beside it are GeGLU networks with norms of
    their own, whose router normalises what it reads and scales each expert's weight (Gemma 4)."""

    num_experts: int
    expert_width: int
    routing: Routing
    shared_width: int = 0
    num_dense_layers: int = 0
    selection_bias: bool = False
    dense_layers: tuple[int, ...] = field(default=(), metadata=_ADDED_LATER)
    beside_dense: bool = field(default=False, metadata=_ADDED_LATER)

    def __post_init__(self) -> None:
        integer_field(self, "num_experts")
        integer_field(self, "expert_width")
        check_instance("routing", self.routing, Routing)
        integer_field(self, "shared_width", at_least=0)
        integer_field(self, "num_dense_layers", at_least=0)
        check_instance("selection_bias", self.selection_bias, bool)
        object.__setattr__(self, "dense_layers", tuple(check_integers("dense_layers", self.dense_layers)))
        check_instance("beside_dense", self.beside_dense, bool)
        if self.beside_dense and (self.shared_width or self.selection_bias):
            raise ValueError(f"beside_dense=True with shared_width={self.shared_width} and selection_bias="
                             f"{self.selection_bias}: must be without a shared expert and a bias")
        self.routing.check_experts(self.num_experts)

    def expected_distinct(self, num_positions: int) -> float:
        """The expected number of distinct experts in one layer, if positions select independently and uniformly."""
        return self.num_experts * (1 - (1 - self.routing.top_k / self.num_experts) ** num_positions)


class Heads(NamedTuple):
    """Those of one layer. Where `values_are_keys`, its values are its keys as they were projected."""

    num_heads: int
    num_kv_heads: int
    width: int
    values_are_keys: bool

    @property
    def projected(self) -> list[int]:
        """How many numbers queries, keys and values, if they are apart, are projected to."""
        kinds = (self.num_heads, *(self.num_kv_heads,) * (1 if self.values_are_keys else 2))
        return [number * self.width for number in kinds]


@dataclass(frozen=True)
class Shape:
    """The shape that both models of a matched pair share.

    `position_table` adds a learned vector per position: with RoPE only, a bidirectional model gives all positions of an
    all-mask canvas the same logits. `rope_fraction` is the share of each head that is rotated. `ffn_width` is that of
    the dense feed-forward layers; with `experts`, those are the first `num_dense_layers`.

    Published shapes also have: heads of `head_dim` (None: width / num_heads); biases of the output projection and of
    the feed-forward layers; a QK-norm over all heads at once (`joint_qk_norm`, OLMoE); queries, keys and values cut to
    `clip_qkv` from 0; other rotary frequencies; and layers that see the last `window` positions alone, by number.

    Gemma's have norms also behind attention and feed-forward (`post_norms`), whose weights, like all, count from 1
    (`norm_offset`); GELU for SiLU; embeddings times `embedding_scale`; scores times `attention_scale` (None: 1 /
    sqrt(head_dim)); and a rotary theta of their own in layers with a window.

    Gemma 4's, and DiffusionGemma's, have other heads in layers without a window (`full_head_dim`, `full_kv_heads`;
    None: as the others), whose values may be their keys before norm and rotation (`values_from_keys`); values
    normalised without a weight (`value_norm`); norms that round after the weight (`float_norms`); layers whose outputs
    are scaled (`layer_scales`); and logits bent to within `logit_cap` of 0. DiffusionGemma runs the same layers a
    second time, with scales of their own, to denoise a canvas, whose embeddings are conditioned on its last logits
    (`denoiser`)."""

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
    experts: ExpertShape | None = None
    head_dim: int | None = field(default=None, metadata=_ADDED_LATER)
    o_bias: bool = field(default=False, metadata=_ADDED_LATER)
    ffn_bias: bool = field(default=False, metadata=_ADDED_LATER)
    joint_qk_norm: bool = field(default=False, metadata=_ADDED_LATER)
    clip_qkv: float | None = field(default=None, metadata=_ADDED_LATER)
    rope_scaling: RopeScaling | None = field(default=None, metadata=_ADDED_LATER)
    window: int | None = field(default=None, metadata=_ADDED_LATER)
    windowed_layers: tuple[int, ...] = field(default=(), metadata=_ADDED_LATER)
    window_rope_theta: float | None = field(default=None, metadata=_ADDED_LATER)
    post_norms: bool = field(default=False, metadata=_ADDED_LATER)
    norm_offset: bool = field(default=False, metadata=_ADDED_LATER)
    gelu: bool = field(default=False, metadata=_ADDED_LATER)
    embedding_scale: float | None = field(default=None, metadata=_ADDED_LATER)
    attention_scale: float | None = field(default=None, metadata=_ADDED_LATER)
    full_head_dim: int | None = field(default=None, metadata=_ADDED_LATER)
    full_kv_heads: int | None = field(default=None, metadata=_ADDED_LATER)
    values_from_keys: bool = field(default=False, metadata=_ADDED_LATER)
    value_norm: bool = field(default=False, metadata=_ADDED_LATER)
    float_norms: bool = field(default=False, metadata=_ADDED_LATER)
    layer_scales: bool = field(default=False, metadata=_ADDED_LATER)
    logit_cap: float | None = field(default=None, metadata=_ADDED_LATER)
    denoiser: bool = field(default=False, metadata=_ADDED_LATER)

    def __post_init__(self) -> None:
        for name in ("width", "num_layers", "num_heads", "num_kv_heads", "ffn_width"):
            integer_field(self, name)
        real_field(self, "rope_fraction", at_least=0, at_most=1)
        real_field(self, "rope_theta", above=0)
        real_field(self, "norm_eps", above=0)
        if self.head_dim is not None:
            integer_field(self, "head_dim")
        elif self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads}: must divide width={self.width}")
        for name in ("full_head_dim", "full_kv_heads"):
            if getattr(self, name) is not None:
                integer_field(self, name)
        for name in ("num_kv_heads", "full_kv_heads"):
            number = getattr(self, name)
            if number is not None and self.num_heads % number:
                raise ValueError(f"{name}={number}: must divide num_heads={self.num_heads}")
        for head_width, rotated in ((self.head_width, self.window_rope_width),
                                    (self.full_head_dim or self.head_width, self.rope_width)):
            if rotated % 2:
                raise ValueError(f"rope_fraction={self.rope_fraction}: must rotate an even number of the head's "
                                 f"{head_width} dimensions, not {rotated}")
        if self.full_head_dim is not None and self.window_rope_theta is None:
            raise ValueError(f"full_head_dim={self.full_head_dim} with window_rope_theta=None: must have a theta for "
                             "each width")
        for name in ("clip_qkv", "window_rope_theta", "embedding_scale", "attention_scale", "logit_cap"):
            if getattr(self, name) is not None:
                real_field(self, name, above=0)
        if self.window is not None:
            integer_field(self, "window")
        object.__setattr__(self, "windowed_layers", tuple(check_integers(
            "windowed_layers", self.windowed_layers, at_most=self.num_layers - 1)))
        if self.windowed_layers and self.window is None:
            raise ValueError(f"windowed_layers={self.windowed_layers} with window=None: must have the window's size")
        if self.experts is not None:
            check_instance("experts", self.experts, ExpertShape)
            if self.experts.num_dense_layers >= self.num_layers:
                raise ValueError(f"num_dense_layers={self.experts.num_dense_layers}: must leave some of the "
                                 f"{self.num_layers} layers to the experts")
            if self.experts.beside_dense and not (self.gelu and self.post_norms):
                raise ValueError(f"beside_dense=True with gelu={self.gelu} and post_norms={self.post_norms}: must be "
                                 "with both")

    @property
    def head_width(self) -> int:
        return self.width // self.num_heads if self.head_dim is None else self.head_dim

    def heads_of(self, layer: int) -> Heads:
        """A layer's heads."""
        if layer in self.windowed_layers:
            return Heads(self.num_heads, self.num_kv_heads, self.head_width, False)
        return Heads(self.num_heads, self.full_kv_heads or self.num_kv_heads, self.full_head_dim or self.head_width,
                     self.values_from_keys)

    @property
    def all_heads(self) -> list[Heads]:
        """Each layer's heads."""
        return [self.heads_of(layer) for layer in range(self.num_layers)]

    @property
    def rope_width(self) -> int:
        """How much of a head is rotated; of layers without a window, where theirs are of another width."""
        return round((self.full_head_dim or self.head_width) * self.rope_fraction)

    @property
    def window_rope_width(self) -> int:
        """The same in layers with a window."""
        return round(self.head_width * self.rope_fraction)

    def is_dense(self, layer: int) -> bool:
        """Whether a layer has a dense feed-forward network."""
        experts = self.experts
        return experts is None or layer < experts.num_dense_layers or layer in experts.dense_layers

    @property
    def num_dense_layers(self) -> int:
        """The number of layers with a dense feed-forward network."""
        return sum(self.is_dense(layer) for layer in range(self.num_layers))


@dataclass(frozen=True)
class TransformerConfig:
    """A shape with a vocabulary, a maximum length and an attention pattern."""

    vocab_size: int
    max_length: int
    attention: AttentionPattern
    shape: Shape = Shape()

    def __post_init__(self) -> None:
        integer_field(self, "vocab_size", at_least=2)
        integer_field(self, "max_length")

    def num_matrix_parameters(self) -> int:
        """Weights in the matrices of all layers, every expert included; without embeddings, head and norms."""
        experts = self.shape.experts
        return round(self._num_layer_weights(0.0 if experts is None else experts.num_experts))

    def num_active_matrix_parameters(self) -> int:
        """The weights among these that one position uses: of a mixture, its top-k experts and the shared one."""
        experts = self.shape.experts
        return round(self._num_layer_weights(0.0 if experts is None else experts.routing.top_k))

    def _num_layer_weights(self, num_experts: float) -> float:
        """Weights in the matrices of all layers, with `num_experts` experts of each mixture."""
        s, experts = self.shape, self.shape.experts
        attention = s.width * sum(sum(heads.projected) + heads.num_heads * heads.width for heads in s.all_heads)
        num_dense = s.num_layers if experts is not None and experts.beside_dense else s.num_dense_layers
        total = attention + 3 * num_dense * s.width * s.ffn_width
        if experts is None:
            return total
        mixture = s.width * (experts.num_experts + 3 * experts.shared_width + 3 * num_experts * experts.expert_width)
        return total + (s.num_layers - s.num_dense_layers) * mixture

    def forward_flops(self, num_fed: int, num_keys_seen: int, num_queried: int) -> int:
        """FLOPs of forwards that feed `num_fed` positions, which see `num_keys_seen` keys in total, and run the head at
        `num_queried` positions: 2 per active weight and position, 4 H D per (query, key) pair and layer."""
        s = self.shape
        attention = 4 * sum(heads.num_heads * heads.width for heads in s.all_heads) * num_keys_seen
        products = 2 * self.num_active_matrix_parameters() * num_fed
        return products + attention + 2 * s.width * self.vocab_size * num_queried

    def kv_bytes_per_position(self, bytes_per_element: int = 4) -> int:
        """Bytes of the keys and values of one stored position."""
        return 2 * sum(heads.num_kv_heads * heads.width for heads in self.shape.all_heads) * bytes_per_element

    def forward_bytes(self, num_fed: int, num_stored_read: int, num_queried: int, *, bytes_per_element: int = 4,
                      num_distinct_experts: float | None = None) -> int:
        """Bytes that one forward must at least read: the layers' weights, the head if it runs, and the keys and values
        of `num_stored_read` stored positions. Activations are assumed to stay in cache. Of a mixture, only the experts
        that the `num_fed` positions use are read: `num_distinct_experts` per layer on average, or, if None, the number
        expected of independent uniform selection."""
        experts = self.shape.experts
        if num_distinct_experts is None:
            num_distinct_experts = 0.0 if experts is None else experts.expected_distinct(num_fed)
        head = self.shape.width * self.vocab_size if num_queried else 0
        weights = round((self._num_layer_weights(num_distinct_experts) + head) * bytes_per_element)
        return weights + num_stored_read * self.kv_bytes_per_position(bytes_per_element)
