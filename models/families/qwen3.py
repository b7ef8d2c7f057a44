"""Qwen3, dense and with experts (arXiv 2505.09388). Each head of queries and keys has a norm before it is rotated."""

from ...kernels.moe_router import Routing
from ..config import ExpertShape
from .base import Attention, Description, Family, all_layers, described
from .fields import Fields
from .qwen2 import window_of, window_size


def attention_of(fields: Fields) -> Attention:
    return _attention(fields, *window_of(fields))


def _attention(fields: Fields, window: int | None, layers: tuple[int, ...]) -> Attention:
    has_bias = fields.flag("attention_bias", False)
    return Attention(qkv_bias=has_bias, o_bias=has_bias, qk_norm=True, window=window, windowed_layers=layers)


def experts_of(fields: Fields, *, renormalise: bool) -> ExpertShape:
    """Those of the mixture-of-experts models; renormalise is where the configuration does not say."""
    num_layers, every = fields.integer("num_hidden_layers"), fields.integer("decoder_sparse_step", 1)
    named = fields.integers("mlp_only_layers")
    dense = tuple(layer for layer in range(num_layers) if layer in named or (layer + 1) % every)
    routing = Routing(fields.integer("num_experts_per_tok"), renormalise=fields.flag("norm_topk_prob", renormalise))
    num_experts = fields.integer("num_local_experts", None) or fields.integer("num_experts")
    return ExpertShape(num_experts, fields.integer("moe_intermediate_size"), routing,
                       dense_layers=dense)


def _describe(fields: Fields) -> Description:
    return described(fields, attention_of(fields))


def _describe_moe(fields: Fields) -> Description:
    window = window_size(fields)
    fields.inert("max_window_layers")  # all layers have the window, where there is one
    attention = _attention(fields, window, all_layers(fields) if window else ())
    return described(fields, attention, experts=experts_of(fields, renormalise=False))


QWEN3 = Family(("Qwen3ForCausalLM",), _describe)
QWEN3_MOE = Family(("Qwen3MoeForCausalLM",), _describe_moe)
