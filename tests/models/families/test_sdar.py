"""SDAR's checkpoints, dense and with experts, give what a plain model of the same weights gives."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quicksilver.decoders import Decoder, presets
from quicksilver.models import BlockCausal, load

from tests.models.families.plain import InBlocks, PlainLayer, PlainMixture, SoftmaxChoice, everything
from tests.models.families.qwen_words import (
    SIZE,
    attention_shapes,
    mixture_shapes,
    model_shapes,
    plain_model,
    softmax_mixture,
    swiglu,
    swiglu_shapes,
)
from tests.models.families.remote_code import (
    FAULTS,
    MASK_ID,
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
    "architectures": ["SDARForCausalLM"], "attention_bias": False, "attn_implementation": "flex_attention",
    "auto_map": {"AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"}, "block_size": 4, "bos_token_id": 1,
    "debug": False, "eos_token_id": 1, "ep_size": 1, "fuse_cross_entropy": True, "head_dim": 16,
    "intermediate_size": 48, "mask_token_id": MASK_ID, "max_window_layers": 36, "micro_forward": False,
    "model_type": "sdar", "skip_checkpoint": False, "sliding_window": None, "transformers_version": "4.52.4",
    "use_deepep": False, "use_sliding_window": False,
}
MIXTURE: dict[str, Any] = {
    "architectures": ["SDARMoeForCausalLM"], "decoder_sparse_step": 1, "mlp_only_layers": [], "model_type": "sdar_moe",
    "moe_intermediate_size": 24, "norm_topk_prob": True, "num_experts": 6, "num_experts_per_tok": 2,
    "output_router_logits": False, "router_aux_loss_coef": 0.001,
}


def published(**values: Any) -> Published:
    config = CONFIG | values
    layer = attention_shapes(config, "qkvo" if config["attention_bias"] else "", has_norms=True)
    layer |= swiglu_shapes("mlp.", config["hidden_size"], config["intermediate_size"])
    weights = random_weights(model_shapes(config, [layer] * config["num_hidden_layers"]))
    plain = plain_model(config, weights, swiglu, InBlocks(config["block_size"]))
    return Published(config, weights, plain, BlockCausal(config["block_size"]), shift=0)


def mixture(**values: Any) -> Published:
    config = CONFIG | MIXTURE | values
    layer = attention_shapes(config, has_norms=True) | mixture_shapes(config, config["moe_intermediate_size"])
    weights = random_weights(model_shapes(config, [layer] * config["num_hidden_layers"]))
    choose = SoftmaxChoice(config["num_experts_per_tok"], renormalise=config["norm_topk_prob"])
    plain = plain_model(config, weights, lambda held: softmax_mixture(held, choose), InBlocks(config["block_size"]))
    return Published(config, weights, plain, BlockCausal(config["block_size"]), shift=0)


@pytest.mark.parametrize("checkpoint", [
    published(), published(block_size=32), published(attention_bias=True), published(tie_word_embeddings=True),
    mixture(), mixture(norm_topk_prob=False, num_experts_per_tok=3),
], ids=["4", "32", "biases", "tied", "experts", "weights as they are"])
def test_its_logits_are_those_of_a_plain_model(checkpoint: Published, tmp_path: Path) -> None:
    check_same(checkpoint, tmp_path)


def _normed_otherwise(layer: PlainLayer) -> PlainLayer:
    assert layer.qk_norms is not None
    return replace(layer, qk_norms=layer.qk_norms[::-1])


def _weighted_otherwise(layer: PlainLayer) -> PlainLayer:
    assert isinstance(layer.ffn, PlainMixture)
    return replace(layer, ffn=replace(layer.ffn, choose=SoftmaxChoice(2, renormalise=False)))


OWN: dict[str, Fault] = {
    "bidirectional": lambda plain: replace(plain, sees=everything),
    "larger blocks": lambda plain: replace(plain, sees=InBlocks(8)),
    "no norms of queries and keys": in_layers(lambda layer: replace(layer, qk_norms=None)),
    "norms of queries and keys swapped": in_layers(_normed_otherwise),
}


@pytest.mark.parametrize("fault", [*FAULTS.values(), *OWN.values(), in_layers(gate_and_up_swapped)],
                         ids=[*FAULTS, *OWN, "gate and up"])
def test_a_fault_would_show(fault: Fault, tmp_path: Path) -> None:
    check_fault(published(), fault, tmp_path)


@pytest.mark.parametrize("fault", [*FAULTS.values(), *OWN.values(), in_layers(_weighted_otherwise)],
                         ids=[*FAULTS, *OWN, "weights as they are"])
def test_a_fault_of_the_mixture_would_show(fault: Fault, tmp_path: Path) -> None:
    check_fault(mixture(), fault, tmp_path)


@pytest.mark.parametrize("checkpoint", [published(), mixture()], ids=["dense", "experts"])
def test_fed_block_after_block_it_gives_the_same(checkpoint: Published, tmp_path: Path) -> None:
    check_cached(checkpoint, 4, tmp_path)


@pytest.mark.parametrize("decoder", [presets.sdar_static(4, 2), presets.sdar_dynamic(4, 4, 0.3)],
                         ids=["static", "dynamic"])
@pytest.mark.parametrize("checkpoint", [published(), mixture()], ids=["dense", "experts"])
def test_it_decodes_as_a_plain_model(checkpoint: Published, decoder: Decoder, tmp_path: Path) -> None:
    check_decodes(checkpoint, decoder, tmp_path)


def test_the_mask_token_is_the_configurations(tmp_path: Path) -> None:
    assert load(published().saved(tmp_path), say=lambda line: None).model.spec.mask_id == MASK_ID
    with pytest.raises(ValueError, match="does not name the mask token"):
        load(published(mask_token_id=None).saved(tmp_path), say=lambda line: None)


@pytest.mark.parametrize(("name", "value"), [
    ("use_sliding_window", True), ("block_size", None), ("head_dim", None), ("norm_topk_prob", None),
])
def test_what_is_computed_otherwise_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"config.json: .*{name}"):
        replace(mixture(), config=mixture().config | {name: value}).loaded(tmp_path)
