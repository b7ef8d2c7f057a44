"""Fast-dLLM v2's checkpoints give what a plain model of the same weights gives, one position later."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quicksilver.decoders import BlockCausalCache, BlockCausalCacheApart, Cache, Recompute, presets
from quicksilver.models import BlockCausal, load

from tests.models.families.plain import InBlocks, everything
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
    Fault,
    Published,
    check_cached,
    check_decodes,
    check_fault,
    check_same,
    gate_and_up_swapped,
    in_layers,
    random_weights,
)

CONFIG: dict[str, Any] = SIZE | {
    "architectures": ["Fast_dLLM_QwenForCausalLM"], "bd_size": 4, "bos_token_id": 1, "conplemenrary_mask": True,
    "auto_map": {"AutoModelForCausalLM": "modeling.Fast_dLLM_QwenForCausalLM"}, "eos_token_id": 2,
    "intermediate_size": 48, "layer_types": ["full_attention"] * 2, "max_window_layers": 28,
    "model_type": "Fast_dLLM_Qwen", "pad_token_id": 2, "sliding_window": None, "transformers_version": "4.53.1",
    "use_sliding_window": False,
}


def published(**values: Any) -> Published:
    config = CONFIG | values
    layer = attention_shapes(config, "qkv") | swiglu_shapes("mlp.", config["hidden_size"], config["intermediate_size"])
    weights = random_weights(model_shapes(config, [layer] * config["num_hidden_layers"]))
    plain = plain_model(config, weights, swiglu, InBlocks(config["bd_size"]))
    return Published(config, weights, plain, BlockCausal(config["bd_size"]), shift=1)


@pytest.mark.parametrize("values", [{}, {"bd_size": 32}, {"tie_word_embeddings": True}], ids=str)
def test_its_logits_are_those_of_a_plain_model(values: dict[str, Any], tmp_path: Path) -> None:
    check_same(published(**values), tmp_path)


OWN: dict[str, Fault] = {
    "gate and up": in_layers(gate_and_up_swapped), "no biases": in_layers(lambda layer: replace(layer, biases=None)),
    "bidirectional": lambda plain: replace(plain, sees=everything),
    "larger blocks": lambda plain: replace(plain, sees=InBlocks(8)),
}


@pytest.mark.parametrize("fault", [*FAULTS.values(), *OWN.values()], ids=[*FAULTS, *OWN])
def test_a_fault_would_show(fault: Fault, tmp_path: Path) -> None:
    check_fault(published(), fault, tmp_path)


def test_fed_block_after_block_it_gives_the_same(tmp_path: Path) -> None:
    check_cached(published(), 4, tmp_path)


@pytest.mark.parametrize("cache", [Recompute(), BlockCausalCache(), BlockCausalCacheApart()], ids=str)
def test_it_decodes_as_a_plain_model(cache: Cache, tmp_path: Path) -> None:
    check_decodes(published(), replace(presets.block_diffusion(4, 2), cache=cache), tmp_path)


def test_the_mask_token_is_the_one_of_its_code_where_the_configuration_names_none(tmp_path: Path) -> None:
    checkpoint = published(vocab_size=151_936, hidden_size=8, num_hidden_layers=1)
    assert load(checkpoint.saved(tmp_path), say=lambda line: None).model.spec.mask_id == 151_665
    checkpoint = published(mask_token_id=7)
    assert load(checkpoint.saved(tmp_path), say=lambda line: None).model.spec.mask_id == 7
    with pytest.raises(ValueError, match="mask_id=151665"):
        load(published().saved(tmp_path), say=lambda line: None)


@pytest.mark.parametrize(("name", "value"), [("use_sliding_window", True), ("bd_size", None), ("bd_size", 0)])
def test_what_is_computed_otherwise_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"config.json: .*{name}"):
        replace(published(), config=CONFIG | {name: value}).loaded(tmp_path)
