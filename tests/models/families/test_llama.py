"""Llama's variants equal transformers' own."""

import json
from pathlib import Path
from typing import Any

import pytest
from quicksilver.models import load

from tests.models.families.transformers_model import Variant, check_same

SCALED = {"rope_theta": 500_000.0, "factor": 8.0, "original_max_position_embeddings": 64}
FACTORS = [1.0, 1.5, 2.0, 4.0, 7.0, 8.0]
DIVIDED = {"rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": FACTORS, "long_factor": FACTORS,
           "attention_factor": 1.25, "original_max_position_embeddings": 640}
VARIANTS = [
    Variant("Llama"), Variant("Llama", {"tie_word_embeddings": True}), Variant("Llama", {"num_key_value_heads": 4}),
    Variant("Llama", {"attention_bias": True, "mlp_bias": True}), Variant("Llama", {"head_dim": 20}),
    Variant("Llama", {"rope_parameters": {
        "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **SCALED}}),
    Variant("Llama", {"rope_parameters": {"rope_type": "yarn", **SCALED}}),
    Variant("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}}),
    Variant("Llama", {"rope_parameters": DIVIDED}),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_its_logits_and_tokens_are_those_of_transformers(variant: Variant, tmp_path: Path) -> None:
    check_same(variant, tmp_path)


@pytest.mark.parametrize(("changes", "message"), [
    ({"long_factor": [2.0] * 6}, r"short_factor=\[1.0, .*: must be a list equal to long_factor"),
    ({"short_factor": FACTORS[:5], "long_factor": FACTORS[:5]}, "divisors: 5 of them: must be 6, one a frequency"),
    ({"short_factor": [0.0] * 6, "long_factor": [0.0] * 6}, r"divisors\[0\]=0.0: must be a number above 0"),
], ids=str)
def test_frequencies_that_change_with_the_length_are_refused(
        changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    Variant("Llama").saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_parameters": DIVIDED | changes}))
    with pytest.raises(ValueError, match=message):
        load(tmp_path)
