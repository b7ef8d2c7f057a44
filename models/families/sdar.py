"""SDAR, dense and with experts (arXiv 2510.06303): Qwen3's layers, block-causal; a position predicts its own token.

The block is the configuration's block_size (github.com/JetAstra/SDAR, training/model). A configuration without one is
refused: there are models of blocks of 4, 8, 16, 32 and 64. So is one without a width of heads, whose default is 128 in
SDAR's code, or that does not say how the weights of experts are normalised.
"""

from ..attention import BlockCausal
from ..config import ExpertShape
from .base import Attention, Description, Family, described, without_window
from .fields import Fields
from .qwen3 import experts_of

_INERT = ("debug", "ep_size", "fuse_cross_entropy", "micro_forward", "skip_checkpoint", "use_deepep")


def _describe(fields: Fields, experts: ExpertShape | None = None) -> Description:
    without_window(fields)
    fields.inert(*_INERT)
    fields.take("head_dim")
    if fields.take("block_size", None) is None:
        raise ValueError(f"{fields.origin}: has no block_size: must have the block that the model was trained with, 4 "
                         "where its name says no other")
    has_bias = fields.flag("attention_bias", False)
    return described(fields, Attention(qkv_bias=has_bias, o_bias=has_bias, qk_norm=True), experts=experts, shift=0,
                     pattern=BlockCausal(fields.integer("block_size")))


def _describe_moe(fields: Fields) -> Description:
    fields.take("norm_topk_prob")
    return _describe(fields, experts_of(fields, renormalise=False))


SDAR = Family(("SDARForCausalLM",), _describe)
SDAR_MOE = Family(("SDARMoeForCausalLM",), _describe_moe)
