"""What is measured of a Hugging Face module."""

import pytest
import torch
from quicksilver.models import AttentionPattern, Bidirectional, BlockCausal, Causal
from quicksilver.models.hf_module import AdditiveMask, BooleanMask, NoMask
from quicksilver.models.hf_probe import HFProbe

from tests.models.averaging import MAX_LENGTH, VOCAB_SIZE, Averaging

ADDED, BOOLEAN = AdditiveMask(torch.float32, MAX_LENGTH - 1), BooleanMask(MAX_LENGTH - 1)


def probe(*faults: str, causal: bool = False) -> HFProbe:
    return HFProbe.of(Averaging(causal, frozenset(faults)))


@pytest.mark.parametrize("causal", [True, False])
def test_its_own_pattern_is_measured(causal: bool) -> None:
    assert probe(causal=causal).native_pattern() == (Causal() if causal else Bidirectional())


def test_the_width_of_its_logits_is_measured_and_a_cap_on_them_refused() -> None:
    assert probe().logits_width(Bidirectional(), NoMask()) == VOCAB_SIZE
    with pytest.raises(ValueError, match="scaled, capped or shifted.; wrap its logits with LogitsFunction"):
        probe("capped").logits_width(Bidirectional(), NoMask())


@pytest.mark.parametrize(("pattern", "native", "faults", "expected"), [
    (Bidirectional(), Bidirectional(), (), NoMask()),
    (Causal(), Bidirectional(), (), ADDED),
    (BlockCausal(3), Bidirectional(), (), ADDED),
    (BlockCausal(3), Bidirectional(), ("boolean",), BOOLEAN),
    (Bidirectional(), Bidirectional(), ("sees padding",), ADDED),
], ids=str)
def test_the_first_mask_form_that_it_obeys_is_taken(
        pattern: AttentionPattern, native: AttentionPattern, faults: tuple[str, ...], expected: object) -> None:
    assert probe(*faults).mask_for(pattern, native) == expected


def test_a_module_that_no_mask_moves_is_refused_with_what_it_does() -> None:
    with pytest.raises(ValueError, match=r"attend as Causal\(\): AdditiveMask: position 0 sees position 1"):
        probe("deaf").mask_for(Causal(), Bidirectional())
    with pytest.raises(ValueError, match="NoMask: padding is seen"):
        probe("deaf", "sees padding").mask_for(Bidirectional(), Bidirectional())


def test_what_a_config_does_not_say_is_asked_for() -> None:
    module = Averaging(causal=False)
    module.config.max_position_embeddings = None
    assert HFProbe.of(module).max_length == MAX_LENGTH  # the table's
    module.has_table = False
    with pytest.raises(ValueError, match="its config has no number of positions; give max_length"):
        HFProbe.of(module)
    assert HFProbe.of(module, max_length=5).max_length == 5
    del module.config.hidden_size
    with pytest.raises(ValueError, match="its config has no hidden_size"):
        HFProbe.of(module)


def test_a_probes_tokens_mean_nothing_to_the_module() -> None:
    """Neither the config's special tokens, nested ones included, nor those of a table, nor the mask of the caller."""
    module = Averaging(causal=False)
    module.config.pad_token_id, module.config.eos_token_id = 5, [4, 6]
    module.config.text_config = {"image_token_index": 7}
    module.tokens.padding_idx = 3
    assert HFProbe.of(module, mask_id=8).tokens == (2, 1)
    with torch.no_grad():
        module.tokens.weight[2] = module.tokens.weight[1]
    assert HFProbe.of(module, mask_id=8).tokens == (2, 9)


@pytest.mark.parametrize("pad", [0, 1, 2])
def test_positions_that_count_from_the_padding_id_on_are_fewer(pad: int) -> None:
    module = Averaging(causal=False)
    module.first_place = pad + 1
    found = HFProbe.of(module)
    assert (found.max_length, found.first_id) == (MAX_LENGTH - pad - 1, pad + 1)
    assert HFProbe.of(module, max_length=5).max_length == 5
    with pytest.raises(ValueError, match=f"max_length={MAX_LENGTH - pad}: Averaging has {MAX_LENGTH - pad - 1}"):
        HFProbe.of(module, max_length=MAX_LENGTH - pad)
