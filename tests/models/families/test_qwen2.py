"""Qwen2's variants equal transformers' own."""

from pathlib import Path

import pytest

from tests.models.families.transformers_model import Variant, check_same

VARIANTS = [
    Variant("Qwen2"), Variant("Qwen2", {"tie_word_embeddings": True}),
    Variant("Qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_its_logits_and_tokens_are_those_of_transformers(variant: Variant, tmp_path: Path) -> None:
    check_same(variant, tmp_path)
