"""LLaDA2.0 and 2.1, mini and flash (arXiv 2512.15745, 2602.08676): block-causal; a position predicts its own token.

Queries, keys and values are one tensor, in this order; each head of queries and keys has a norm and is rotated in its
first half. The router's scores are sigmoids; a bias enters the choice of groups and of experts alone; the weights of
the chosen are made to sum to one, of a single one not, and scaled. Defaults are those of configuration_llada2_moe.py
(github.com/inclusionAI/dFactory). config.json names neither the mask token nor the block: 156895 and 32 are the
defaults of the model's own `generate`, and SGLang's.
"""

from ...kernels.moe_router import Routing, Scoring
from ..attention import BlockCausal
from ..config import ExpertShape
from .base import Attention, Description, Family, described, without_window
from .fields import Fields
from .tensor_names import TensorNames

_NAMES = TensorNames(
    embedding="model.word_embeddings", qkv=("attention.query_key_value",), o="attention.dense",
    q_norm="attention.query_layernorm", k_norm="attention.key_layernorm")
_MASK_ID, _BLOCK = 156_895, 32
_FIXED = {"moe_router_enable_expert_bias": True, "norm_head": False, "norm_softmax": False, "norm_topk_prob": True,
          "router_dtype": "fp32", "score_function": "sigmoid", "use_rmsnorm": True,
          "using_split_qkv_in_self_attention": False}


def _describe(fields: Fields) -> Description:
    for name, value in _FIXED.items():
        fields.expect(name, value)
    without_window(fields)
    fields.inert("embedding_dropout", "output_dropout")
    attention = Attention(qkv_bias=fields.flag("use_qkv_bias", False), o_bias=fields.flag("use_bias", True),
                          qk_norm=fields.flag("use_qk_norm", True))
    fraction = fields.real("partial_rotary_factor", 0.5)
    found = described(fields, attention, experts=_experts(fields), rope_fraction=fraction, names=_NAMES, shift=0,
                      pattern=BlockCausal(_BLOCK), mask_id=_MASK_ID)
    fields.expect("rotary_dim", found.config.shape.rope_width)
    return found


def _experts(fields: Fields) -> ExpertShape:
    top_k, width = fields.integer("num_experts_per_tok"), fields.integer("moe_intermediate_size")
    routing = Routing(top_k, Scoring.SIGMOID, fields.integer("n_group", 8), fields.integer("topk_group", 4),
                      renormalise=top_k > 1, scale=fields.real("routed_scaling_factor", 2.5))
    return ExpertShape(fields.integer("num_experts"), width, routing,
                       shared_width=width * fields.integer("num_shared_experts", 0, at_least=0),
                       num_dense_layers=fields.integer("first_k_dense_replace", 0, at_least=0), selection_bias=True)


LLADA2 = Family(("LLaDA2MoeModelLM",), _describe)
