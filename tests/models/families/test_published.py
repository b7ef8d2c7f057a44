"""Configurations of published checkpoints, with all their fields, are read as their papers say. Those of SDAR, LLaDA2
and Fast-dLLM v2 are the files of github.com/JetAstra/SDAR, inclusionAI/dFactory and Satgoy152/DualDiffusion; the other
families' have the fields that their configuration classes know, and the sizes that their papers name."""

from typing import Any

import pytest
from quicksilver.models import AttentionPattern, Bidirectional, BlockCausal
from quicksilver.models.families import describe

TRANSFORMERS: dict[str, Any] = {
    "attention_dropout": 0.0, "auto_map": {}, "hidden_act": "silu", "initializer_range": 0.02, "rope_scaling": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.53.1", "use_cache": False,
}
QWEN: dict[str, Any] = TRANSFORMERS | {
    "bos_token_id": 151643, "eos_token_id": 151643, "rms_norm_eps": 1e-06, "rope_theta": 1000000,
    "sliding_window": None, "use_sliding_window": False,
}
LLADA_8B: dict[str, Any] = {
    "activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0, "attention_layer_norm": False, "attention_layer_norm_with_affine": True, "auto_map": {},
    "bias_for_layer_norm": False, "block_group_size": 1, "block_type": "llama", "d_model": 4096,
    "embedding_dropout": 0.0, "embedding_size": 126464, "eos_token_id": 126081, "flash_attention": False,
    "include_bias": False, "include_qkv_bias": False, "init_cutoff_factor": None, "init_device": "meta",
    "init_fn": "mitchell", "init_std": 0.02, "input_emb_norm": False, "layer_norm_type": "rms",
    "layer_norm_with_affine": True, "mask_token_id": 126336, "max_sequence_length": 4096, "mlp_hidden_size": 12288,
    "mlp_ratio": 4, "model_type": "llada", "multi_query_attention": None, "n_heads": 32, "n_kv_heads": 32,
    "n_layers": 32, "pad_token_id": 126081, "precision": "amp_bf16", "residual_dropout": 0.0, "rms_norm_eps": 1e-05,
    "rope": True, "rope_full_precision": True, "rope_theta": 500000.0, "scale_logits": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.46.3", "use_cache": False, "vocab_size": 126464,
    "weight_tying": False,
}
DREAM_7B = QWEN | {
    "architectures": ["DreamModel"], "hidden_size": 3584, "intermediate_size": 18944, "mask_token_id": 151666,
    "max_position_embeddings": 131072, "max_window_layers": 28, "model_type": "Dream", "num_attention_heads": 28,
    "num_hidden_layers": 28, "num_key_value_heads": 4, "pad_token_id": 151643, "use_mrope": False,
    "vocab_size": 152064,
}
LLADA_MOE_7B = TRANSFORMERS | {
    "architectures": ["LLaDAMoEModelLM"], "attention_bias": False, "clip_qkv": None, "dense_intermediate_size": 8192,
    "eos_token_id": 156892, "expert_intermediate_size": 1024, "hidden_size": 2048, "max_position_embeddings": 8192,
    "model_type": "llada", "moe_layer_freq": [1] * 16, "moe_router_enable_expert_bias": False,
    "moe_router_score_function": "softmax", "norm_topk_prob": None, "num_attention_heads": 16, "num_experts": 64,
    "num_experts_per_tok": 8, "num_hidden_layers": 16, "num_key_value_heads": 16, "output_router_logits": False,
    "pad_token_id": 156892, "partial_rotary_factor": 1, "qk_layernorm": True, "rms_norm_eps": 1e-05,
    "rope_theta": 50000, "routed_scaling_factor": 1, "router_aux_loss_coef": 0.01, "router_num_group": None,
    "router_topk_group": None, "shared_expert_intermediate_size": None, "vocab_size": 157184,
}
LLADA2_MINI = TRANSFORMERS | {
    "architectures": ["LLaDA2MoeModelLM"], "num_hidden_layers": 20, "hidden_size": 2048, "intermediate_size": 5120,
    "first_k_dense_replace": 1, "max_position_embeddings": 16384, "model_type": "llada2_moe_veomni",
    "moe_intermediate_size": 512, "norm_topk_prob": True, "num_experts_per_tok": 8, "norm_head": False,
    "num_attention_heads": 16, "num_experts": 256, "num_key_value_heads": 4, "rope_theta": 600000, "use_bias": False,
    "use_rmsnorm": True, "rms_norm_eps": 1e-06, "head_dim": 128, "num_shared_experts": 1, "use_qkv_bias": False,
    "embedding_dropout": 0.0, "norm_softmax": False, "output_dropout": 0.0, "vocab_size": 157184, "rotary_dim": 64,
    "using_split_qkv_in_self_attention": False, "router_dtype": "fp32", "moe_router_enable_expert_bias": True,
    "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4, "score_function": "sigmoid", "max_window_layers": 28,
    "output_router_logits": False, "pad_token_id": 156892, "partial_rotary_factor": 0.5, "use_sliding_window": False,
}
LLADA2_FLASH = LLADA2_MINI | {
    "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 9216, "moe_intermediate_size": 1024,
    "num_attention_heads": 32,
}
SDAR_8B = QWEN | {
    "architectures": ["SDARForCausalLM"], "attention_bias": False, "attn_implementation": "flex_attention",
    "debug": False, "block_size": 4, "mask_token_id": 151669, "ep_size": 1, "fuse_cross_entropy": True,
    "head_dim": 128, "hidden_size": 4096, "intermediate_size": 12288, "max_position_embeddings": 32768,
    "max_window_layers": 36, "micro_forward": False, "model_type": "sdar", "num_attention_heads": 32,
    "num_hidden_layers": 36, "num_key_value_heads": 8, "skip_checkpoint": False, "use_deepep": False,
    "vocab_size": 151936,
}
SDAR_4B = SDAR_8B | {"hidden_size": 2560, "intermediate_size": 9728}
SDAR_30B = SDAR_8B | {  # of Qwen3-30B-A3B's sizes
    "architectures": ["SDARMoeForCausalLM"], "decoder_sparse_step": 1, "hidden_size": 2048, "intermediate_size": 6144,
    "mlp_only_layers": [], "model_type": "sdar_moe", "moe_intermediate_size": 768, "norm_topk_prob": True,
    "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
    "output_router_logits": False, "router_aux_loss_coef": 0.001,
}
FAST_DLLM_7B = QWEN | {
    "architectures": ["Fast_dLLM_QwenForCausalLM"], "bd_size": 32, "conplemenrary_mask": True, "eos_token_id": 151645,
    "hidden_size": 3584, "intermediate_size": 18944, "layer_types": ["full_attention"] * 28,
    "max_position_embeddings": 32768, "max_window_layers": 28, "model_type": "Fast_dLLM_Qwen",
    "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "pad_token_id": 151645,
    "vocab_size": 152064,
}


@pytest.mark.parametrize(("config", "pattern", "shift", "mask_id", "billions"), [
    (LLADA_8B, Bidirectional(), 0, 126336, 8.0), (DREAM_7B, Bidirectional(), 1, 151666, 7.6),
    (LLADA_MOE_7B, Bidirectional(), 0, 156895, 7.4), (LLADA2_MINI, BlockCausal(32), 0, 156895, 16.3),
    (LLADA2_FLASH, BlockCausal(32), 0, 156895, 102.9), (SDAR_8B, BlockCausal(4), 0, 151669, 8.2),
    (SDAR_4B, BlockCausal(4), 0, 151669, 4.4), (SDAR_30B, BlockCausal(4), 0, 151669, 30.5),
    (FAST_DLLM_7B, BlockCausal(32), 1, 151665, 7.6),
], ids=["LLaDA-8B", "Dream-7B", "LLaDA-MoE-7B-A1B", "LLaDA2-mini", "LLaDA2-flash", "SDAR-8B", "SDAR-4B",
        "SDAR-30B-A3B", "Fast-dLLM v2 7B"])
def test_every_field_of_a_published_configuration_is_known(config: dict[str, Any], pattern: AttentionPattern,
                                                           shift: int, mask_id: int, billions: float) -> None:
    found = describe(config, "config.json")
    assert (found.config.attention, found.shift, found.mask_id) == (pattern, shift, mask_id)
    tables = 2 * found.config.vocab_size * found.config.shape.width
    assert round((found.config.num_matrix_parameters() + tables) / 1e9, 1) == billions


@pytest.mark.parametrize("config", [LLADA_8B, DREAM_7B, LLADA_MOE_7B, LLADA2_MINI, SDAR_8B, FAST_DLLM_7B],
                         ids=lambda config: config["architectures"][0])
def test_a_field_that_is_not_known_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="use_qk_clip: unknown to this family"):
        describe(config | {"use_qk_clip": True}, "config.json")


def test_a_family_that_is_computed_otherwise_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="NemotronLabsDiffusionModel.*only the open block sees itself whole"):
        describe({"architectures": ["NemotronLabsDiffusionModel"]}, "config.json")
