"""What is measured of a foreign module, on one small enough to lie in every way: positions average what they see."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from quicksilver.models import AttentionPattern, Bidirectional, BlockCausal, Causal
from quicksilver.models.foreign_module import AddedMasks, BooleanMasks, ForeignShape, OwnMasks, Storing
from quicksilver.models.foreign_probe import Probe
from torch import Tensor, nn

WIDTH, VOCAB_SIZE, MAX_LENGTH = 8, 11, 12


class Averaging(nn.Module):
    """One layer, h_q = x_q + mean of x_k over the keys seen; `causal` by itself, in masks and caches as transformers
    has them, but for the faults that a test asks for."""

    def __init__(self, causal: bool, faults: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=MAX_LENGTH, num_hidden_layers=1, hidden_size=WIDTH,
                                      num_attention_heads=1)
        self.causal, self.faults = causal, faults
        self.tokens, self.places = nn.Embedding(VOCAB_SIZE, WIDTH), nn.Embedding(MAX_LENGTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB_SIZE)
        self.eval()

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None,
                past_key_values: Any = None) -> SimpleNamespace:
        num_rows, num_fed = input_ids.shape
        if position_ids is None:
            position_ids = torch.arange(num_fed)[None]
        x_BFE = self.tokens(input_ids) + self.places(position_ids)
        keys_B1CE = x_BFE[:, None]
        if past_key_values is not None:
            keys_B1CE = past_key_values.update(keys_B1CE, keys_B1CE, 0)[0]
            if "forgets" in self.faults:
                keys_B1CE = torch.zeros_like(keys_B1CE)
        seen_BFC = torch.ones(num_rows, num_fed, keys_B1CE.shape[2], dtype=torch.bool)
        if attention_mask is not None and attention_mask.ndim == 4:
            if "deaf" not in self.faults:
                boolean = attention_mask.dtype == torch.bool
                if "boolean" in self.faults and not boolean:
                    attention_mask = attention_mask.bool()  # as Dream's code reads a mask of numbers
                    boolean = True
                seen_BFC = attention_mask[:, 0] if boolean else attention_mask[:, 0] == 0
        elif attention_mask is not None and "sees padding" not in self.faults:
            seen_BFC = seen_BFC & attention_mask[:, None].bool()
        if self.causal and (attention_mask is None or attention_mask.ndim == 2):
            seen_BFC = seen_BFC.tril()
        weight_BFC = seen_BFC / seen_BFC.sum(-1, keepdim=True).clamp(min=1)
        logits_BFV = self.head(x_BFE + weight_BFC @ keys_B1CE[:, 0])
        return SimpleNamespace(logits=logits_BFV.tanh() if "capped" in self.faults else logits_BFV)


def probe(*faults: str, causal: bool = False) -> Probe:
    module = Averaging(causal, frozenset(faults))
    return Probe(module, ForeignShape.of(module, None))


ADDED, BOOLEAN = AddedMasks(torch.float32, MAX_LENGTH - 1), BooleanMasks(MAX_LENGTH - 1)


@pytest.mark.parametrize("causal", [True, False])
def test_its_own_pattern_is_measured(causal: bool) -> None:
    assert probe(causal=causal).own_pattern() == (Causal() if causal else Bidirectional())


def test_the_width_of_its_logits_is_measured_and_a_cap_on_them_refused() -> None:
    assert probe().num_tokens(Bidirectional(), OwnMasks()) == VOCAB_SIZE
    with pytest.raises(ValueError, match="scaled, capped or moved; wrap its logits with LogitsFunction"):
        probe("capped").num_tokens(Bidirectional(), OwnMasks())


@pytest.mark.parametrize(("pattern", "own", "faults", "expected"), [
    (Bidirectional(), Bidirectional(), (), OwnMasks()),
    (Causal(), Bidirectional(), (), ADDED),
    (BlockCausal(3), Bidirectional(), (), ADDED),
    (BlockCausal(3), Bidirectional(), ("boolean",), BOOLEAN),
    (Bidirectional(), Bidirectional(), ("sees padding",), ADDED),
], ids=str)
def test_the_first_kind_of_mask_that_it_obeys_is_taken(
        pattern: AttentionPattern, own: AttentionPattern, faults: tuple[str, ...], expected: object) -> None:
    assert probe(*faults).masks(pattern, own) == expected


def test_a_module_that_no_mask_moves_is_refused_with_what_it_does() -> None:
    with pytest.raises(ValueError, match=r"attend as Causal\(\): AddedMasks: position 0 sees position 1"):
        probe("deaf").masks(Causal(), Bidirectional())
    with pytest.raises(ValueError, match="OwnMasks: padding is seen"):
        probe("deaf", "sees padding").masks(Bidirectional(), Bidirectional())


@pytest.mark.parametrize("pattern", [Bidirectional(), Causal(), BlockCausal(3)], ids=str)
def test_stored_keys_and_values_are_taken_only_where_they_change_nothing(pattern: AttentionPattern) -> None:
    assert probe().storing(pattern, ADDED) == Storing(ADDED, "past_key_values")
    assert probe("boolean").storing(pattern, BOOLEAN) == Storing(BOOLEAN, "past_key_values")
    refused = probe("forgets").storing(pattern, ADDED)
    assert isinstance(refused, str)
    assert "stored keys and values change its answers" in refused


def test_what_a_config_does_not_say_is_asked_for() -> None:
    module = Averaging(causal=False)
    assert ForeignShape.of(module, 5).max_length == 5
    del module.config.max_position_embeddings
    with pytest.raises(ValueError, match="does not say how many positions it knows; give max_length"):
        ForeignShape.of(module, None)
    del module.config.hidden_size
    with pytest.raises(ValueError, match="its config does not say hidden_size"):
        ForeignShape.of(module, 5)
