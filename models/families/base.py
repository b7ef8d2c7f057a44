"""What a family of published models makes of a configuration: ours, and where in a checkpoint each weight lies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...kernels.checks import shown
from ..attention import AttentionPattern, Causal
from ..config import ExpertShape, Shape, TransformerConfig
from ..rope import RopeScaling
from .fields import Fields
from .rotary import rope_of
from .tensor_names import TensorNames


@dataclass(frozen=True)
class Description:
    """A model of a family. `mask_id` is None where the configuration names none; `special_ids` are the ids of other
    tokens as it names them: bos, eos (one or several), pad. Tensors whose names begin as `unread` says belong to parts
    that are not here: they are left where they are, and saved as they were."""

    config: TransformerConfig
    names: TensorNames
    shift: int = 1
    mask_id: int | None = None
    architecture: str = ""
    special_ids: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @property
    def needs_mask(self) -> bool:
        """Whether the model sees masked positions."""
        return not isinstance(self.config.attention, Causal)


@dataclass(frozen=True)
class Family:
    """Models by the names of their architecture in config.json."""

    architectures: tuple[str, ...]
    describe: Callable[[Fields], Description]


@dataclass(frozen=True)
class Attention:
    """What families' attention differs by, and a Shape says so: see there."""

    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False
    joint_qk_norm: bool = False
    clip_qkv: float | None = None
    window: int | None = None
    windowed_layers: tuple[int, ...] = ()


_LLAMA_NAMES, _CAUSAL = TensorNames(), Causal()


def described(fields: Fields, attention: Attention, *, experts: ExpertShape | None = None, ffn_bias: bool = False,
              rope: tuple[float, RopeScaling | None] | None = None, rope_fraction: float = 1.0, is_tied: bool = False,
              names: TensorNames = _LLAMA_NAMES, shift: int = 1, pattern: AttentionPattern = _CAUSAL,
              ffn_width: str = "intermediate_size", mask_id: int | None = None) -> Description:
    """A model like Llama: what all such configurations name alike is read here, theta and scaling too unless they are
    given; is_tied and mask_id are where the configuration does not say, ffn_width is the name of the width of dense
    layers."""
    fields.expect("hidden_act", "silu")
    num_heads = fields.integer("num_attention_heads")
    theta, scaling = rope_of(fields, rope_fraction) if rope is None else rope
    shape = Shape(
        width=fields.integer("hidden_size"), num_layers=fields.integer("num_hidden_layers"), num_heads=num_heads,
        num_kv_heads=fields.integer("num_key_value_heads", num_heads),
        ffn_width=fields.integer(ffn_width), rope_fraction=rope_fraction, rope_theta=theta,
        rope_scaling=scaling, norm_eps=fields.real("rms_norm_eps"), position_table=False,
        tied_embeddings=fields.flag("tie_word_embeddings", is_tied), head_dim=fields.integer("head_dim", None),
        experts=experts, ffn_bias=ffn_bias, **vars(attention))
    config = TransformerConfig(fields.integer("vocab_size"), fields.integer("max_position_embeddings"), pattern, shape)
    return Description(config, names, shift, fields.integer("mask_token_id", mask_id, at_least=0))


def without_window(fields: Fields) -> None:
    """A window is refused, and what describes one that is not used says nothing."""
    fields.expect("use_sliding_window", False)
    fields.inert("sliding_window", "max_window_layers", "layer_types")


def all_layers(fields: Fields) -> tuple[int, ...]:
    """Every layer, as those with a window; a configuration that lists other kinds is refused."""
    layers = windowed_layers(fields)
    if len(layers) < fields.integer("num_hidden_layers"):
        raise ValueError(f"{fields.origin}: layer_types: must all be sliding_attention, which this family's layers are")
    return layers


def windowed_layers(fields: Fields, otherwise: Callable[[int], bool] = lambda layer: True) -> tuple[int, ...]:
    """The layers whose kind in `layer_types` is a sliding window; where those are not listed, those that `otherwise`
    says."""
    num_layers, kinds = fields.integer("num_hidden_layers"), fields.take("layer_types", None)
    if kinds is None:
        return tuple(layer for layer in range(num_layers) if otherwise(layer))
    allowed = "full_attention", "sliding_attention"
    if not isinstance(kinds, list) or len(kinds) != num_layers or not all(kind in allowed for kind in kinds):
        raise ValueError(f"{fields.origin}: layer_types={shown(kinds)}: must be {num_layers} of {', '.join(allowed)}")
    return tuple(layer for layer, kind in enumerate(kinds) if kind == "sliding_attention")
