"""Mistral's variants equal transformers' own."""

from pathlib import Path

import pytest

from tests.models.families.transformers_model import Variant, check_same

VARIANTS = [Variant("Mistral", {"sliding_window": None, "head_dim": 16}), Variant("Mistral", {"sliding_window": 5})]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_its_logits_and_tokens_are_those_of_transformers(variant: Variant, tmp_path: Path) -> None:
    check_same(variant, tmp_path)
