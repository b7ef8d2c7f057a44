"""Dream's checkpoints give what a plain model of the same weights gives, one position later."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quicksilver.decoders import Decoder, presets
from quicksilver.models import Bidirectional, load

from tests.models.families.plain import everything
from tests.models.families.qwen_words import (
    SIZE,
    attention_shapes,
    model_shapes,
    plain_model,
    swiglu,
    swiglu_shapes,
)
from tests.models.families.remote_code import (
    FAULTS,
    MASK_ID,
    Fault,
    Published,
    check_decodes,
    check_fault,
    check_same,
    gate_and_up_swapped,
    in_layers,
    random_weights,
)

CONFIG: dict[str, Any] = SIZE | {
    "architectures": ["DreamModel"], "auto_map": {"AutoModel": "modeling_dream.DreamModel"}, "bos_token_id": 1,
    "eos_token_id": 1, "intermediate_size": 48, "mask_token_id": MASK_ID, "max_window_layers": 28,
    "model_type": "Dream", "pad_token_id": 1, "sliding_window": None, "transformers_version": "4.46.2",
    "use_mrope": False, "use_sliding_window": False,
}


def published(**values: Any) -> Published:
    config = CONFIG | values
    layer = attention_shapes(config, "qkv") | swiglu_shapes("mlp.", config["hidden_size"], config["intermediate_size"])
    weights = random_weights(model_shapes(config, [layer] * config["num_hidden_layers"]))
    return Published(config, weights, plain_model(config, weights, swiglu, everything), Bidirectional(), shift=1)


@pytest.mark.parametrize("values", [{}, {"tie_word_embeddings": True}, {"rope_theta": 10_000.0}], ids=str)
def test_its_logits_are_those_of_a_plain_model(values: dict[str, Any], tmp_path: Path) -> None:
    check_same(published(**values), tmp_path)


OWN: dict[str, Fault] = {
    "gate and up": in_layers(gate_and_up_swapped), "no biases": in_layers(lambda layer: replace(layer, biases=None)),
}


@pytest.mark.parametrize("fault", [*FAULTS.values(), *OWN.values()], ids=[*FAULTS, *OWN])
def test_a_fault_would_show(fault: Fault, tmp_path: Path) -> None:
    check_fault(published(), fault, tmp_path)


@pytest.mark.parametrize("decoder", [presets.dream_entropy(4), presets.dream_margin(3), presets.dream_maskgit_plus(4)],
                         ids=["entropy", "margin", "maskgit_plus"])
def test_it_decodes_as_a_plain_model(decoder: Decoder, tmp_path: Path) -> None:
    check_decodes(published(), decoder, tmp_path)


def test_the_mask_token_is_the_configurations(tmp_path: Path) -> None:
    assert load(published().saved(tmp_path), say=lambda line: None).model.spec.mask_id == MASK_ID
    with pytest.raises(ValueError, match="does not name the mask token"):
        load(published(mask_token_id=None).saved(tmp_path), say=lambda line: None)


@pytest.mark.parametrize(("name", "value"), [
    ("use_sliding_window", True), ("use_mrope", True), ("hidden_act", "gelu"), ("block_size", 4),
    ("partial_rotary_factor", 0.5),
])
def test_what_is_computed_otherwise_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"config.json: {name}"):
        published(**{name: value}).loaded(tmp_path)
