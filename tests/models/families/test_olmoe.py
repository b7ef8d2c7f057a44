"""OLMoE's variants equal transformers' own."""

from pathlib import Path

import pytest

from tests.models.families.transformers_model import Variant, check_same

VARIANTS = [
    Variant("Olmoe", {"num_experts": 6, "num_experts_per_tok": 2}),
    Variant("Olmoe", {"num_experts": 6, "num_experts_per_tok": 3, "clip_qkv": 0.5, "norm_topk_prob": True}),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_its_logits_and_tokens_are_those_of_transformers(variant: Variant, tmp_path: Path) -> None:
    check_same(variant, tmp_path)
