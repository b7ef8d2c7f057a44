"""A published model as an option: what it loads is what models.load does with the same options."""

from pathlib import Path

import pytest
import torch
from quicksilver.experiments.published.checkpoint import PublishedModel

from tests.models.families.transformers_model import SIZE, Variant


def test_it_loads_with_its_options(tmp_path: Path) -> None:
    Variant("Llama").saved(tmp_path)
    loaded = PublishedModel(str(tmp_path), max_length=32, mask_id=5).load(tmp_path, torch.bfloat16, "cpu")
    spec = loaded.model.spec
    assert (spec.max_length, spec.mask_id, spec.shift) == (32, 5, 1)
    assert loaded.model.transformer.head.weight.dtype == torch.bfloat16
    assert PublishedModel(str(tmp_path)).description().config.max_length == SIZE["max_position_embeddings"]


def test_what_does_not_fit_the_model_is_named(tmp_path: Path) -> None:
    Variant("Llama").saved(tmp_path)
    with pytest.raises(ValueError, match="mask_id=97"):
        PublishedModel(str(tmp_path), mask_id=97).load(tmp_path, torch.float32, "cpu")
    with pytest.raises(ValueError, match="max_length=641"):
        PublishedModel(str(tmp_path), max_length=641).load(tmp_path, torch.float32, "cpu")


def test_fewer_positions_serve_where_all_would_take_more_than_the_weights(tmp_path: Path) -> None:
    Variant("Llama", {"max_position_embeddings": 10_000_000}).saved(tmp_path)
    with pytest.raises(ValueError, match="max_length=10,000,000"):
        PublishedModel(str(tmp_path)).check()
    PublishedModel(str(tmp_path), max_length=64).check()
