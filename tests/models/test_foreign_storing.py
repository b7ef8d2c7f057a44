"""Where a foreign module may be given stored keys and values, and rows of unlike length."""

from typing import Any

import pytest
import torch
from quicksilver.models import AttentionPattern, Bidirectional, BlockCausal, Causal
from quicksilver.models.foreign_module import AddedMasks, BooleanMasks, Masks, OwnMasks, Storing
from quicksilver.models.foreign_probe import Probe
from quicksilver.models.foreign_storing import LengthProbe

from tests.models.averaging import MAX_LENGTH, Averaging

ADDED, BOOLEAN = AddedMasks(torch.float32, MAX_LENGTH - 1), BooleanMasks(MAX_LENGTH - 1)
PATTERNS = [Bidirectional(), Causal(), BlockCausal(3)]


def lengths(*faults: str, pattern: AttentionPattern, masks: Masks = ADDED, causal: bool = False, **settings: Any
            ) -> LengthProbe:
    return LengthProbe(Probe.of(Averaging(causal, frozenset(faults), **settings)), pattern, masks)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_stored_keys_and_values_are_taken_only_where_they_change_nothing(pattern: AttentionPattern) -> None:
    assert lengths(pattern=pattern).storing() == Storing(ADDED, "past_key_values")
    assert lengths("boolean", pattern=pattern, masks=BOOLEAN).storing() == Storing(BOOLEAN, "past_key_values")
    refused = lengths("forgets", pattern=pattern).storing()
    assert isinstance(refused, str)
    assert "stored keys and values change its answers" in refused


@pytest.mark.parametrize("window", range(2, MAX_LENGTH))
@pytest.mark.parametrize("faults", [(), ("counts rows",)], ids=str)
def test_a_window_that_no_config_names_is_found_whatever_its_length(window: int, faults: tuple[str, ...]) -> None:
    """Whether the module gives it up for a mask from outside, or goes by the number of keys whatever the row."""
    found = lengths(*faults, pattern=Causal(), masks=OwnMasks(), causal=True, window=window)
    assert not found.rows_change_rows
    refused = found.storing()
    assert isinstance(refused, str)
    assert "stored keys and values change its answers" in refused


@pytest.mark.parametrize("scaled_from", [5, MAX_LENGTH - 1])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_positions_that_a_longer_sequence_changes_are_found(pattern: AttentionPattern, scaled_from: int) -> None:
    found = lengths(pattern=pattern, scaled_from=scaled_from)
    assert found.rows_change_rows
    assert found.storing() == "a longer row beside it changes what a row answers"
    assert not lengths(pattern=pattern, scaled_from=MAX_LENGTH).rows_change_rows


def test_a_module_that_writes_to_the_positions_it_is_told_is_served() -> None:
    assert lengths("writes", pattern=Causal()).storing() == Storing(ADDED, "past_key_values")
