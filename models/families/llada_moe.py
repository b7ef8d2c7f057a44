"""LLaDA-MoE-7B-A1B (arXiv 2509.24389): OLMoE's layers with a norm for each head of queries and keys, bidirectional; a
position predicts its own token. A shared expert, where there is one, lies beside the mixture.

Its class (modeling_lladamoe.py, as github.com/ZHZisZZ/dllm holds it) takes the softmax over all experts and never
divides the weights of the chosen, whatever norm_topk_prob says; it adds an expert bias, where one is enabled, to the
weights as well as to the choice, which is refused. config.json does not name the mask token: 156895 is the default of
the model card's `generate`, and what llama.cpp's conversion/llada.py, which knows both names of it, writes.
"""

from ...kernels.moe_router import Routing
from ..attention import Bidirectional
from ..config import ExpertShape
from .base import Attention, Description, Family, described
from .fields import Fields
from .tensor_names import TensorNames

_NAMES = TensorNames(shared_gate_up=("shared_expert.gate_proj", "shared_expert.up_proj"),
                     shared_down="shared_expert.down_proj")
_MASK_ID = 156_895


def _describe(fields: Fields) -> Description:
    fields.expect("moe_router_enable_expert_bias", False)
    fields.expect("moe_router_score_function", "softmax")
    fields.expect("routed_scaling_factor", 1)
    fields.expect("clip_qkv", None)
    fields.inert("norm_topk_prob", "router_num_group", "router_topk_group")
    has_bias = fields.flag("attention_bias", False)
    attention = Attention(qkv_bias=has_bias, o_bias=has_bias, qk_norm=fields.flag("qk_layernorm", False))
    experts = ExpertShape(
        fields.integer("num_experts"), fields.integer("expert_intermediate_size"),
        Routing(fields.integer("num_experts_per_tok")),
        shared_width=fields.integer("shared_expert_intermediate_size", 0, at_least=0),
        dense_layers=_dense_layers(fields))
    return described(fields, attention, experts=experts, names=_NAMES, shift=0, pattern=Bidirectional(),
                     ffn_width="dense_intermediate_size", mask_id=_MASK_ID)


def _dense_layers(fields: Fields) -> tuple[int, ...]:
    """Those that moe_layer_freq, which has a number for each layer, says 0 of."""
    kinds, num_layers = fields.integers("moe_layer_freq"), fields.integer("num_hidden_layers")
    if len(kinds) != num_layers:
        raise ValueError(f"{fields.origin}: moe_layer_freq={[*kinds]}: must have a number for each of the {num_layers} "
                         "layers")
    return tuple(layer for layer, kind in enumerate(kinds) if kind == 0)


LLADA_MOE = Family(("LLaDAMoEModelLM", "LLaDAMoEModel"), _describe)
