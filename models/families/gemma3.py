"""Gemma 3 for text (arXiv 2503.19786): norms by 1 + weight before and behind attention and feed-forward, embeddings
times the root of their width, GELU, and five layers with a window and rotary frequencies of their own to one
without."""

from dataclasses import replace

from ..rope import RopeScaling
from .base import Attention, Description, Family, described, windowed_layers
from .fields import Fields
from .rotary import rope_of, rope_of_table
from .tensor_names import TensorNames

_GLOBAL_THETA, _LOCAL_THETA, _PATTERN = 1_000_000.0, 10_000.0, 6
_NAMES = TensorNames(ffn_norm="pre_feedforward_layernorm")


def _describe(fields: Fields) -> Description:
    fields.expect("hidden_activation", "gelu_pytorch_tanh")
    fields.expect("use_bidirectional_attention", False)
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        fields.expect(name, None)
    pattern = fields.integer("_sliding_window_pattern", None)
    pattern = fields.integer("sliding_window_pattern", pattern or _PATTERN)
    has_bias = fields.flag("attention_bias", False)
    attention = Attention(qkv_bias=has_bias, o_bias=has_bias, qk_norm=True, window=fields.integer("sliding_window"),
                          windowed_layers=windowed_layers(fields, lambda layer: bool((layer + 1) % pattern)))
    rope, local_theta = _rope_of(fields)
    found = described(fields, attention, is_tied=True, names=_NAMES, rope=rope)
    shape = replace(
        found.config.shape, window_rope_theta=local_theta, post_norms=True, norm_offset=True, gelu=True,
        embedding_scale=found.config.shape.width**0.5, attention_scale=fields.real("query_pre_attn_scalar") ** -0.5)
    return replace(found, config=replace(found.config, shape=shape))


def _rope_of(fields: Fields) -> tuple[tuple[float, RopeScaling | None], float]:
    """Theta and scaling of layers without a window, and theta of the others, which are not scaled."""
    parameters = fields.table("rope_parameters")
    if parameters is None:
        theta, scaling = rope_of(fields)
        theta = theta if "rope_theta" in fields else _GLOBAL_THETA
        return (theta, scaling), fields.real("rope_local_base_freq", _LOCAL_THETA)
    full, local = parameters.table("full_attention"), parameters.table("sliding_attention")
    parameters.check_all_read()
    local_theta, local_scaling = rope_of_table(local, fields, _LOCAL_THETA)
    if local_scaling is not None:
        raise ValueError(f"{parameters.origin}: sliding_attention with {local_scaling}: must be of type default")
    return rope_of_table(full, fields, _GLOBAL_THETA), local_theta


GEMMA3 = Family(("Gemma3ForCausalLM",), _describe)
