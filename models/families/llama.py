"""Llama 2 and 3 (arXiv 2407.21783)."""

from .base import Attention, Description, Family, described
from .fields import Fields


def _describe(fields: Fields) -> Description:
    has_bias = fields.flag("attention_bias", False)
    fields.expect("rope_interleaved", False)
    return described(fields, Attention(qkv_bias=has_bias, o_bias=has_bias), ffn_bias=fields.flag("mlp_bias", False))


LLAMA = Family(("LlamaForCausalLM",), _describe)
