"""Where a Hugging Face module may read stored keys and values, and share a batch with rows of other lengths."""

from typing import Any

import pytest
import torch
from quicksilver.models import AttentionPattern, Bidirectional, BlockCausal, Causal
from quicksilver.models.hf_cache_probe import HFCacheProbe
from quicksilver.models.hf_module import AdditiveMask, BooleanMask, HFCacheInterface, HFMask, NoMask
from quicksilver.models.hf_probe import HFProbe

from tests.models.averaging import MAX_LENGTH, Averaging

ADDED, BOOLEAN = AdditiveMask(torch.float32, MAX_LENGTH - 1), BooleanMask(MAX_LENGTH - 1)
PATTERNS = [Bidirectional(), Causal(), BlockCausal(3)]


def cache_probe(*faults: str, pattern: AttentionPattern, hf_mask: HFMask = ADDED, causal: bool = False,
                **settings: Any) -> HFCacheProbe:
    return HFCacheProbe(HFProbe.of(Averaging(causal, frozenset(faults), **settings)), pattern, hf_mask)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_stored_keys_and_values_are_taken_only_where_they_change_nothing(pattern: AttentionPattern) -> None:
    assert cache_probe(pattern=pattern).cache() == HFCacheInterface(ADDED, "past_key_values")
    found = cache_probe("boolean", pattern=pattern, hf_mask=BOOLEAN).cache()
    assert found == HFCacheInterface(BOOLEAN, "past_key_values")
    refused = cache_probe("forgets", pattern=pattern).cache()
    assert isinstance(refused, str)
    assert "stored keys and values change its outputs" in refused


@pytest.mark.parametrize("window", range(2, MAX_LENGTH))
@pytest.mark.parametrize("faults", [(), ("counts rows",)], ids=str)
def test_a_window_that_no_config_names_is_found_whatever_its_length(window: int, faults: tuple[str, ...]) -> None:
    """Whether the module drops it under an explicit mask, or counts keys whatever the mask."""
    found = cache_probe(*faults, pattern=Causal(), hf_mask=NoMask(), causal=True, window=window)
    assert not found.depends_on_batch
    refused = found.cache()
    assert isinstance(refused, str)
    assert "stored keys and values change its outputs" in refused


@pytest.mark.parametrize("scaled_from", [5, MAX_LENGTH - 1])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_positions_that_a_longer_sequence_changes_are_found(pattern: AttentionPattern, scaled_from: int) -> None:
    found = cache_probe(pattern=pattern, scaled_from=scaled_from)
    assert found.depends_on_batch
    assert found.cache() == "a longer row in the batch changes the outputs of a shorter one"
    assert not cache_probe(pattern=pattern, scaled_from=MAX_LENGTH).depends_on_batch


def test_a_module_that_writes_to_its_position_ids_is_supported() -> None:
    assert cache_probe("writes", pattern=Causal()).cache() == HFCacheInterface(ADDED, "past_key_values")
