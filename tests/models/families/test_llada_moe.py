"""LLaDA-MoE's checkpoints give what a plain model of the same weights gives."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quicksilver.decoders import presets
from quicksilver.models import Bidirectional, load
from torch import Tensor

from tests.models.families.plain import Network, PlainLayer, PlainMixture, SoftmaxChoice, everything
from tests.models.families.qwen_words import (
    SIZE,
    Shapes,
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
    Fault,
    Published,
    check_decodes,
    check_fault,
    check_same,
    in_layers,
    random_weights,
)

CONFIG: dict[str, Any] = SIZE | {
    "architectures": ["LLaDAMoEModelLM"], "attention_bias": False, "clip_qkv": None, "dense_intermediate_size": 48,
    "auto_map": {"AutoModelForCausalLM": "modeling_lladamoe.LLaDAMoEModelLM"}, "eos_token_id": 1,
    "expert_intermediate_size": 24, "model_type": "llada", "moe_layer_freq": [1, 1],
    "moe_router_enable_expert_bias": False, "moe_router_score_function": "softmax", "norm_topk_prob": None,
    "num_experts": 6, "num_experts_per_tok": 2, "output_router_logits": False, "pad_token_id": 1,
    "partial_rotary_factor": 1, "qk_layernorm": True, "rms_norm_eps": 1e-05, "rope_theta": 50000,
    "routed_scaling_factor": 1, "router_aux_loss_coef": 0.01, "router_num_group": None, "router_topk_group": None,
    "shared_expert_intermediate_size": None, "transformers_version": "4.53.2",
}


def published(**values: Any) -> Published:
    config = CONFIG | values
    shapes = model_shapes(config, [_layer_shapes(config, kind) for kind in config["moe_layer_freq"]])
    weights = random_weights(shapes)

    def ffn(held: dict[str, Tensor]) -> Network:
        if "mlp.gate.weight" not in held:
            return swiglu(held)
        return softmax_mixture(held, SoftmaxChoice(config["num_experts_per_tok"], renormalise=False))

    return Published(config, weights, plain_model(config, weights, ffn, everything), Bidirectional(), shift=0)


def _layer_shapes(config: dict[str, Any], kind: int) -> Shapes:
    attention = attention_shapes(config, "qkvo" if config["attention_bias"] else "", has_norms=config["qk_layernorm"])
    width, shared = config["hidden_size"], config["shared_expert_intermediate_size"]
    if kind == 0:
        return attention | swiglu_shapes("mlp.", width, config["dense_intermediate_size"])
    experts = mixture_shapes(config, config["expert_intermediate_size"])
    return attention | experts | (swiglu_shapes("shared_expert.", width, shared) if shared else {})


SHARED: dict[str, Any] = {"shared_expert_intermediate_size": 16}


@pytest.mark.parametrize("values", [
    {}, SHARED, {"shared_expert_intermediate_size": 24}, {"moe_layer_freq": [0, 1]}, {"qk_layernorm": False},
    {"attention_bias": True}, {"num_experts_per_tok": 3, "norm_topk_prob": True}, {"tie_word_embeddings": True},
], ids=str)
def test_its_logits_are_those_of_a_plain_model(values: dict[str, Any], tmp_path: Path) -> None:
    check_same(published(**values), tmp_path)


def _divided(layer: PlainLayer) -> PlainLayer:
    assert isinstance(layer.ffn, PlainMixture)
    return replace(layer, ffn=replace(layer.ffn, choose=SoftmaxChoice(2, renormalise=True)))


def _without_shared(layer: PlainLayer) -> PlainLayer:
    assert isinstance(layer.ffn, PlainMixture)
    return replace(layer, ffn=replace(layer.ffn, shared=None))


OWN: dict[str, Fault] = {
    "no norms of queries and keys": in_layers(lambda layer: replace(layer, qk_norms=None)),
    "weights that sum to one": in_layers(_divided), "no shared expert": in_layers(_without_shared),
}


@pytest.mark.parametrize("fault", [*FAULTS.values(), *OWN.values()], ids=[*FAULTS, *OWN])
def test_a_fault_would_show(fault: Fault, tmp_path: Path) -> None:
    check_fault(published(**SHARED), fault, tmp_path)


def test_it_decodes_as_a_plain_model(tmp_path: Path) -> None:
    check_decodes(published(**SHARED), presets.llada(block=2, steps=1), tmp_path)


def test_the_mask_token_is_the_one_of_its_model_card(tmp_path: Path) -> None:
    checkpoint = published(vocab_size=157_184, hidden_size=8, num_hidden_layers=1, moe_layer_freq=[1])
    assert load(checkpoint.saved(tmp_path), say=lambda line: None).model.spec.mask_id == 156_895
    with pytest.raises(ValueError, match="mask_id=156895"):
        load(published().saved(tmp_path), say=lambda line: None)


@pytest.mark.parametrize(("name", "value"), [
    ("moe_router_enable_expert_bias", True), ("moe_router_score_function", "sigmoid"), ("clip_qkv", 8.0),
    ("routed_scaling_factor", 2.5), ("partial_rotary_factor", 0.5), ("moe_layer_freq", [1]), ("hidden_act", "gelu"),
    ("n_group", 4),
])
def test_what_is_computed_otherwise_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"config.json: {name}"):
        replace(published(), config=CONFIG | {name: value}).loaded(tmp_path)
