"""Gemma 3's variants equal transformers' own, and its norms to the bit in bfloat16."""

from pathlib import Path
from typing import Any

import pytest
import torch
from quicksilver.models.layers import OffsetRMSNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

from tests.models.families.transformers_model import Variant, check_same

ROPE = {"full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}}
VARIANTS = [
    Variant("Gemma3", {"head_dim": 16, "sliding_window": 6, "num_hidden_layers": 7}),
    Variant("Gemma3", {"head_dim": 12, "query_pre_attn_scalar": 168, "sliding_window": 300, "rope_parameters": ROPE,
                       "layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
    Variant("Gemma3", {"head_dim": 20, "tie_word_embeddings": False, "attention_bias": True}),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_its_logits_and_tokens_are_those_of_transformers(variant: Variant, tmp_path: Path) -> None:
    check_same(variant, tmp_path)


def test_a_norm_multiplies_by_one_plus_its_weight_before_it_rounds() -> None:
    theirs: Any = Gemma3RMSNorm(64, eps=1e-6).to(torch.bfloat16)
    torch.nn.init.normal_(theirs.weight)
    ours = OffsetRMSNorm(64, 1e-6).to(torch.bfloat16)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 64).to(torch.bfloat16)
    assert torch.equal(ours(x, None)[0], theirs(x))
