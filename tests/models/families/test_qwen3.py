"""Qwen3's variants equal transformers' own."""

from pathlib import Path

import pytest

from tests.models.families.transformers_model import Variant, check_same

VARIANTS = [
    Variant("Qwen3", {"head_dim": 20}), Variant("Qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    Variant("Qwen3Moe", {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
                         "norm_topk_prob": True, "mlp_only_layers": [1], "head_dim": 16}),
    Variant("Qwen3Moe", {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24,
                         "decoder_sparse_step": 2}),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_its_logits_and_tokens_are_those_of_transformers(variant: Variant, tmp_path: Path) -> None:
    check_same(variant, tmp_path)
