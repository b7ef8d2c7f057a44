"""Mixtral's variants equal transformers' own."""

from pathlib import Path

import pytest

from tests.models.families.transformers_model import Variant, check_same

VARIANTS = [Variant("Mixtral", {"num_local_experts": 4}),
            Variant("Mixtral", {"num_experts_per_tok": 3, "sliding_window": 7})]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_its_logits_and_tokens_are_those_of_transformers(variant: Variant, tmp_path: Path) -> None:
    check_same(variant, tmp_path)
