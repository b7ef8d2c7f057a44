"""LLaDA-8B (arXiv 2502.09992) and LLaDA-1.5 (2505.19223): Llama's layers, bidirectional, in OLMo's words. A position
predicts its own token.

Fields and names as github.com/ML-GSAI/LLaDA's checkpoints have them (configuration_llada.py, modeling_llada.py). What
they fix must be named: where a field is absent, that code has another default (GELU, LayerNorm, no rotation).
"""

from ..attention import Bidirectional
from ..config import Shape, TransformerConfig
from .base import Description, Family
from .fields import Fields
from .tensor_names import TensorNames

NAMES = TensorNames(
    embedding="model.transformer.wte", norm="model.transformer.ln_f", head="model.transformer.ff_out",
    layer="model.transformer.blocks.{layer}.", attention_norm="attn_norm", ffn_norm="ff_norm",
    qkv=("q_proj", "k_proj", "v_proj"), o="attn_out", gate_up=("ff_proj", "up_proj"), down="ff_out")
_FIXED = {"block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms", "rope": True}
_OFF = ("alibi", "attention_layer_norm", "include_bias", "bias_for_layer_norm", "input_emb_norm", "scale_logits",
        "multi_query_attention")
_ON = ("layer_norm_with_affine", "rope_full_precision")
_INERT = ("alibi_bias_max", "attention_layer_norm_with_affine", "embedding_dropout", "flash_attention",
          "init_cutoff_factor", "init_device", "init_fn", "init_std", "precision", "residual_dropout")


def _describe(fields: Fields) -> Description:
    for name, value in _FIXED.items():
        fields.require(name, value)
    for value, names in ((False, _OFF), (True, _ON), (1, ("block_group_size",))):
        for name in names:
            fields.expect(name, value)
    fields.inert(*_INERT)
    width, num_heads = fields.integer("d_model"), fields.integer("n_heads")
    ratio, vocab_size = fields.integer("mlp_ratio", 4), fields.integer("vocab_size")
    shape = Shape(
        width=width, num_layers=fields.integer("n_layers"), num_heads=num_heads,
        num_kv_heads=fields.integer("n_kv_heads", num_heads),
        ffn_width=fields.integer("mlp_hidden_size", ratio * width), rope_theta=fields.real("rope_theta"),
        norm_eps=fields.real("rms_norm_eps"), position_table=False, tied_embeddings=fields.flag("weight_tying"),
        qkv_bias=fields.flag("include_qkv_bias", False))
    config = TransformerConfig(fields.integer("embedding_size", vocab_size), fields.integer("max_sequence_length"),
                               Bidirectional(), shape)
    return Description(config, NAMES, shift=0, mask_id=fields.integer("mask_token_id", None, at_least=0))


LLADA = Family(("LLaDAModelLM",), _describe)
