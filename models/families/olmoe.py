"""OLMoE (arXiv 2409.02060): experts in every layer, one norm over all heads of queries and one over those of keys."""

from ...kernels.moe_router import Routing
from ..config import ExpertShape
from .base import Attention, Description, Family, described
from .fields import Fields


def _describe(fields: Fields) -> Description:
    has_bias = fields.flag("attention_bias", False)
    attention = Attention(qkv_bias=has_bias, o_bias=has_bias, qk_norm=True, joint_qk_norm=True,
                          clip_qkv=fields.real("clip_qkv", None))
    routing = Routing(fields.integer("num_experts_per_tok"), renormalise=fields.flag("norm_topk_prob", False))
    experts = ExpertShape(fields.integer("num_experts"), fields.integer("intermediate_size"), routing)
    return described(fields, attention, experts=experts)


OLMOE = Family(("OlmoeForCausalLM",), _describe)
