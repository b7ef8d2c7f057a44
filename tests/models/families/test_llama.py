"""Llama's variants equal transformers' own."""

from pathlib import Path

import pytest

from tests.models.families.transformers_model import Variant, check_same

SCALED = {"rope_theta": 500_000.0, "factor": 8.0, "original_max_position_embeddings": 64}
VARIANTS = [
    Variant("Llama"), Variant("Llama", {"tie_word_embeddings": True}), Variant("Llama", {"num_key_value_heads": 4}),
    Variant("Llama", {"attention_bias": True, "mlp_bias": True}), Variant("Llama", {"head_dim": 20}),
    Variant("Llama", {"rope_parameters": {
        "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **SCALED}}),
    Variant("Llama", {"rope_parameters": {"rope_type": "yarn", **SCALED}}),
    Variant("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}}),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_its_logits_and_tokens_are_those_of_transformers(variant: Variant, tmp_path: Path) -> None:
    check_same(variant, tmp_path)
