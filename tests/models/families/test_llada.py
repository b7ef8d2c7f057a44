"""LLaDA's checkpoints, in OLMo's words, give what a plain model of the same weights gives."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quicksilver.decoders import presets
from quicksilver.models import Bidirectional, load
from torch import Tensor

from tests.models.families.plain import PlainLayer, PlainModel, Swiglu
from tests.models.families.remote_code import (
    FAULTS,
    MASK_ID,
    MAX_LENGTH,
    VOCAB_SIZE,
    Fault,
    Published,
    check_decodes,
    check_fault,
    check_same,
    gate_and_up_swapped,
    in_layers,
    random_weights,
    within,
)

WIDTH, FFN_WIDTH, LAYERS, HEADS = 32, 48, 2, 4
CONFIG: dict[str, Any] = {
    "activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0, "attention_layer_norm": False, "attention_layer_norm_with_affine": True,
    "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"}, "bias_for_layer_norm": False, "block_group_size": 1,
    "block_type": "llama", "d_model": WIDTH, "embedding_dropout": 0.0, "embedding_size": VOCAB_SIZE,
    "eos_token_id": 1, "flash_attention": False, "include_bias": False, "include_qkv_bias": False,
    "init_cutoff_factor": None, "init_device": "meta", "init_fn": "mitchell", "init_std": 0.02,
    "input_emb_norm": False, "layer_norm_type": "rms", "layer_norm_with_affine": True, "mask_token_id": MASK_ID,
    "max_sequence_length": MAX_LENGTH, "mlp_hidden_size": FFN_WIDTH, "mlp_ratio": 4, "model_type": "llada",
    "multi_query_attention": None, "n_heads": HEADS, "n_kv_heads": HEADS, "n_layers": LAYERS, "pad_token_id": 1,
    "precision": "amp_bf16", "residual_dropout": 0.0, "rms_norm_eps": 1e-05, "rope": True, "rope_full_precision": True,
    "rope_theta": 500000.0, "scale_logits": False, "torch_dtype": "bfloat16", "transformers_version": "4.46.3",
    "use_cache": False, "vocab_size": VOCAB_SIZE, "weight_tying": False,
}


def published(**values: Any) -> Published:
    config = CONFIG | values
    kv_width = WIDTH // HEADS * config["n_kv_heads"]
    shapes = {"wte": (VOCAB_SIZE, WIDTH), "ln_f": (WIDTH,)} | (
        {} if config["weight_tying"] else {"ff_out": (VOCAB_SIZE, WIDTH)})
    block = {"attn_norm": (WIDTH,), "ff_norm": (WIDTH,), "q_proj": (WIDTH, WIDTH), "k_proj": (kv_width, WIDTH),
             "v_proj": (kv_width, WIDTH), "attn_out": (WIDTH, WIDTH), "ff_proj": (FFN_WIDTH, WIDTH),
             "up_proj": (FFN_WIDTH, WIDTH), "ff_out": (WIDTH, FFN_WIDTH)}
    shapes |= {f"blocks.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in block.items()}
    weights = random_weights({f"model.transformer.{name}.weight": shape for name, shape in shapes.items()})
    held = {name: weights[f"model.transformer.{name}.weight"] for name in shapes}
    plain = PlainModel(held["wte"], [_layer(within(held, f"blocks.{layer}.")) for layer in range(LAYERS)],
                       held["ln_f"], held["wte" if config["weight_tying"] else "ff_out"], num_heads=HEADS,
                       head_width=WIDTH // HEADS, theta=config["rope_theta"], eps=1e-5, rotated=WIDTH // HEADS)
    return Published(config, weights, plain, Bidirectional(), shift=0)


def _layer(held: dict[str, Tensor]) -> PlainLayer:
    return PlainLayer(held["attn_norm"], (held["q_proj"], held["k_proj"], held["v_proj"]), held["attn_out"],
                      held["ff_norm"], Swiglu(held["ff_proj"], held["up_proj"], held["ff_out"]))


@pytest.mark.parametrize("values", [{}, {"n_kv_heads": 2}, {"weight_tying": True}], ids=str)
def test_its_logits_are_those_of_a_plain_model(values: dict[str, Any], tmp_path: Path) -> None:
    check_same(published(**values), tmp_path)


@pytest.mark.parametrize("fault", [*FAULTS.values(), in_layers(gate_and_up_swapped)], ids=[*FAULTS, "gate and up"])
def test_a_fault_would_show(fault: Fault, tmp_path: Path) -> None:
    check_fault(published(), fault, tmp_path)


@pytest.mark.parametrize("decoder", [presets.llada(block=2, steps=1), presets.fast_dllm(block=2, tau=0.2)],
                         ids=["llada", "fast_dllm"])
def test_it_decodes_as_a_plain_model(decoder: Any, tmp_path: Path) -> None:
    check_decodes(published(), decoder, tmp_path)


def test_the_mask_token_is_the_configurations(tmp_path: Path) -> None:
    assert load(published().saved(tmp_path), say=lambda line: None).model.spec.mask_id == MASK_ID
    with pytest.raises(ValueError, match="does not name the mask token"):
        load(published(mask_token_id=None).saved(tmp_path), say=lambda line: None)


@pytest.mark.parametrize(("name", "value"), [
    ("block_type", "sequential"), ("activation_type", "swiglu"), ("layer_norm_type", "gemma_rms"), ("rope", False),
    ("alibi", True), ("attention_layer_norm", True), ("include_bias", True), ("bias_for_layer_norm", True),
    ("input_emb_norm", True), ("scale_logits", True), ("multi_query_attention", True), ("block_group_size", 2),
    ("layer_norm_with_affine", False), ("rope_full_precision", False), ("rope_scaling", {"factor": 2.0}),
    ("block_type", None), ("activation_type", None), ("rope", None), ("weight_tying", None), ("rope_theta", None),
])
def test_what_is_computed_otherwise_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"config.json: .*{name}"):
        replace(published(), config=CONFIG | {name: value}).loaded(tmp_path)
