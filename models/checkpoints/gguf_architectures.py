"""Architectures of GGUF files, by the names that llama.cpp gives them: what they are published as, and how tensors are
named there.

    llama.cpp     token_embd, blk.0.attn_q, blk.0.ffn_gate_exps (all experts at once), output_norm ...
    published     model.embed_tokens, model.layers.0.self_attn.q_proj, model.layers.0.mlp.experts.0.gate_proj ...

llama.cpp rotates neighbouring dimensions where published models rotate those half a head apart; of the architectures
that it does so for, the rows of queries and keys are stored in its order (conversion/llama.py, `permute`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...kernels.checks import shown
from ..families.llada import NAMES as LLADA_NAMES
from ..families.mixtral import NAMES as MIXTRAL_NAMES
from ..families.tensor_names import TensorNames
from .gguf_keys import Keys

_LLAMA_NAMES = TensorNames()
_LLADA_WORDS = {
    "hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads", "intermediate_size": "mlp_hidden_size",
    "max_position_embeddings": "max_sequence_length", "tie_word_embeddings": "weight_tying"}
_LLADA_CONSTANTS = {"activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms", "rope": True}
_LLADA_MOE_WORDS = {"expert_width": "expert_intermediate_size", "intermediate_size": "dense_intermediate_size",
                    "expert_layers": "moe_layer_freq"}


@dataclass(frozen=True)
class Architecture:
    """`published` is the architecture in its config.json and `model_type` the name by which transformers finds its
    class; `words` are what it calls otherwise than Llama's, `constants` what it must say besides, `biases` the fields
    there that say whether there are biases, each with a layer that has one then. `renormalises`: whether the weights of
    the chosen experts sum to 1, and `says_so`: whether config.json has a field for it. `shifts`: whether logits are
    those of the next token."""

    published: str
    model_type: str
    names: TensorNames = _LLAMA_NAMES
    words: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    biases: tuple[tuple[str, str], ...] = ()
    permutes: bool = False
    renormalises: bool = False
    says_so: bool = True
    is_causal: bool = True
    shifts: bool = True


_QKV_BIAS, _LLADA_BIAS = ("attention_bias", "attn_q"), ("include_qkv_bias", "attn_q")
_LLAMA = Architecture("LlamaForCausalLM", "llama", biases=(_QKV_BIAS, ("mlp_bias", "ffn_gate")), permutes=True)
_MIXTRAL = Architecture(
    "MixtralForCausalLM", "mixtral", MIXTRAL_NAMES, {"num_experts": "num_local_experts"}, permutes=True,
    renormalises=True, says_so=False)
_BY_NAME = {
    "llama": _LLAMA, "qwen2": Architecture("Qwen2ForCausalLM", "qwen2"),
    "qwen3": Architecture("Qwen3ForCausalLM", "qwen3", biases=(_QKV_BIAS,)),
    "qwen3moe": Architecture("Qwen3MoeForCausalLM", "qwen3_moe", words={"expert_width": "moe_intermediate_size"},
                             biases=(_QKV_BIAS,), renormalises=True),
    "olmoe": Architecture("OlmoeForCausalLM", "olmoe", biases=(_QKV_BIAS,)),
    "dream": Architecture("DreamModel", "Dream", is_causal=False),
    "llada": Architecture("LLaDAModelLM", "llada", LLADA_NAMES, _LLADA_WORDS, _LLADA_CONSTANTS, (_LLADA_BIAS,),
                          permutes=True, is_causal=False, shifts=False),
    "llada-moe": Architecture("LLaDAMoEModelLM", "llada", words=_LLADA_MOE_WORDS, constants={"qk_layernorm": True},
                              says_so=False, is_causal=False, shifts=False)}


def architecture_of(keys: Keys) -> Architecture:
    """Mixtral's files are called "llama" too. ValueError where it is none of these."""
    name = keys.architecture
    if name not in _BY_NAME:
        raise ValueError(f"{keys.path}: general.architecture={shown(name)}: must be one of "
                         f"{', '.join(sorted(_BY_NAME))}")
    return _MIXTRAL if name == "llama" and keys.num_experts() else _BY_NAME[name]
