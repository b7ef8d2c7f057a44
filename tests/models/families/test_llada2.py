"""LLaDA2's checkpoints give what a plain model of the same weights gives."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from quicksilver.decoders import Decoder, presets
from quicksilver.models import BlockCausal, load
from torch import Tensor

from tests.models.families.plain import InBlocks, Network, PlainLayer, PlainMixture, PlainModel, everything
from tests.models.families.qwen_words import SIZE, Shapes, swiglu, swiglu_shapes
from tests.models.families.remote_code import (
    FAULTS,
    VOCAB_SIZE,
    Fault,
    Published,
    check_cached,
    check_decodes,
    check_fault,
    check_same,
    in_layers,
    random_weights,
    within,
)

CONFIG: dict[str, Any] = SIZE | {
    "architectures": ["LLaDA2MoeModelLM"], "embedding_dropout": 0.0, "first_k_dense_replace": 1, "head_dim": 16,
    "auto_map": {"AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM"}, "intermediate_size": 48,
    "max_window_layers": 28, "model_type": "llada2_moe", "moe_intermediate_size": 24,
    "moe_router_enable_expert_bias": True, "n_group": 4, "norm_head": False, "norm_softmax": False,
    "norm_topk_prob": True, "num_experts": 16, "num_experts_per_tok": 3, "num_hidden_layers": 3,
    "num_shared_experts": 1, "output_dropout": 0.0, "output_router_logits": False, "pad_token_id": 1,
    "partial_rotary_factor": 0.5, "rope_theta": 600000, "rotary_dim": 8, "routed_scaling_factor": 2.5,
    "router_dtype": "fp32", "score_function": "sigmoid", "topk_group": 2, "transformers_version": "4.52.3",
    "use_bias": False, "use_qkv_bias": False, "use_rmsnorm": True, "use_sliding_window": False,
    "using_split_qkv_in_self_attention": False,
}
NO_GROUPS = {"n_group": 1, "topk_group": 1}


@dataclass(frozen=True)
class GroupedChoice:
    """The best of the best groups by sigmoids and a bias that the weights know nothing of."""

    bias_X: Tensor
    groups: int
    kept: int
    top_k: int
    scale: float
    divides: bool = True
    weighs_bias: bool = False

    def __call__(self, logits_TX: Tensor) -> tuple[Tensor, Tensor]:
        score_TX = 1 / (1 + (-logits_TX).exp())
        biased_TX = score_TX + self.bias_X
        biased_TGX = biased_TX.unflatten(1, (self.groups, -1))
        rank_TG = biased_TGX.sort(dim=2, descending=True).values[:, :, :2].sum(2)
        open_TG = torch.zeros_like(rank_TG, dtype=torch.bool).scatter(1, rank_TG.topk(self.kept).indices, True)
        chosen_TA = biased_TGX.masked_fill(~open_TG[..., None], -torch.inf).flatten(1).topk(self.top_k).indices
        weight_TA = (biased_TX if self.weighs_bias else score_TX).gather(1, chosen_TA)
        if self.divides and self.top_k > 1:
            weight_TA = weight_TA / weight_TA.sum(1, keepdim=True)
        return chosen_TA, self.scale * weight_TA


def published(**values: Any) -> Published:
    config = CONFIG | values
    table = config["vocab_size"], config["hidden_size"]
    shapes: Shapes = {"model.word_embeddings.weight": table, "lm_head.weight": table, "model.norm.weight": table[1:]}
    for number in range(config["num_hidden_layers"]):
        layer = _layer_shapes(config, is_dense=number < config["first_k_dense_replace"])
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    weights = random_weights(shapes)
    layers = [_layer(config, within(weights, f"model.layers.{number}."))
              for number in range(config["num_hidden_layers"])]
    plain = PlainModel(weights["model.word_embeddings.weight"], layers, weights["model.norm.weight"],
                       weights["lm_head.weight"], num_heads=config["num_attention_heads"],
                       head_width=config["head_dim"], theta=config["rope_theta"], eps=config["rms_norm_eps"],
                       rotated=int(config["head_dim"] * config["partial_rotary_factor"]), sees=InBlocks(32))
    return Published(config, weights, plain, BlockCausal(32), shift=0)


def _layer_shapes(config: dict[str, Any], *, is_dense: bool) -> Shapes:
    width, head, inner = config["hidden_size"], config["head_dim"], config["moe_intermediate_size"]
    qkv = (config["num_attention_heads"] + 2 * config["num_key_value_heads"]) * head
    shapes: Shapes = {
        "attention.query_key_value.weight": (qkv, width), "input_layernorm.weight": (width,),
        "attention.dense.weight": (width, config["num_attention_heads"] * head),
        "attention.query_layernorm.weight": (head,), "attention.key_layernorm.weight": (head,),
        "post_attention_layernorm.weight": (width,)}
    shapes |= {"attention.query_key_value.bias": (qkv,)} if config["use_qkv_bias"] else {}
    shapes |= {"attention.dense.bias": (width,)} if config["use_bias"] else {}
    if is_dense:
        return shapes | swiglu_shapes("mlp.", width, config["intermediate_size"])
    shapes |= {"mlp.gate.weight": (config["num_experts"], width), "mlp.gate.expert_bias": (config["num_experts"],)}
    for expert in range(config["num_experts"]):
        shapes |= swiglu_shapes(f"mlp.experts.{expert}.", width, inner)
    shared = inner * config["num_shared_experts"]
    return shapes | (swiglu_shapes("mlp.shared_experts.", width, shared) if shared else {})


def _layer(config: dict[str, Any], held: dict[str, Tensor]) -> PlainLayer:
    widths = [config["head_dim"] * config[f"num_{name}_heads"] for name in ("attention", "key_value", "key_value")]
    q, k, v = held["attention.query_key_value.weight"].split(widths)
    fused_bias = held.get("attention.query_key_value.bias")
    biases = None
    if fused_bias is not None:
        q_bias, k_bias, v_bias = fused_bias.split(widths)
        biases = q_bias, k_bias, v_bias
    return PlainLayer(held["input_layernorm.weight"], (q, k, v), held["attention.dense.weight"],
                      held["post_attention_layernorm.weight"], _ffn(config, held), biases,
                      held.get("attention.dense.bias"),
                      (held["attention.query_layernorm.weight"], held["attention.key_layernorm.weight"]))


def _ffn(config: dict[str, Any], held: dict[str, Tensor]) -> Network:
    if "mlp.gate.weight" not in held:
        return swiglu(held)
    choose = GroupedChoice(held["mlp.gate.expert_bias"], config["n_group"], config["topk_group"],
                           config["num_experts_per_tok"], config["routed_scaling_factor"])
    experts: list[Network] = [swiglu(held, f"mlp.experts.{expert}.") for expert in range(config["num_experts"])]
    shared = swiglu(held, "mlp.shared_experts.") if config["num_shared_experts"] else None
    return PlainMixture(held["mlp.gate.weight"], experts, choose, shared)


@pytest.mark.parametrize("values", [
    {}, NO_GROUPS, {"num_shared_experts": 2}, {"num_shared_experts": 0}, {"first_k_dense_replace": 0},
    {"first_k_dense_replace": 2}, {"use_qkv_bias": True, "use_bias": True}, {"num_experts_per_tok": 1},
    {"partial_rotary_factor": 0.25, "rotary_dim": None}, {"routed_scaling_factor": 1.0},
], ids=str)
def test_its_logits_are_those_of_a_plain_model(values: dict[str, Any], tmp_path: Path) -> None:
    check_same(published(**values), tmp_path)


def _routed(**changes: Any) -> Fault:
    def change(layer: PlainLayer) -> PlainLayer:
        if not isinstance(layer.ffn, PlainMixture):
            return layer
        choose: Any = layer.ffn.choose
        return replace(layer, ffn=replace(layer.ffn, choose=replace(choose, **changes)))

    return in_layers(change)


def _without_shared(layer: PlainLayer) -> PlainLayer:
    return replace(layer, ffn=replace(layer.ffn, shared=None)) if isinstance(layer.ffn, PlainMixture) else layer


def _fused_otherwise(layer: PlainLayer) -> PlainLayer:
    """Queries, keys and values of a group of heads together, as other families fuse them."""
    q, k, v = torch.cat(layer.qkv).unflatten(0, (2, -1)).split((32, 16, 16), dim=1)
    return replace(layer, qkv=(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)))


OWN: dict[str, Fault] = {
    "bidirectional": lambda plain: replace(plain, sees=everything),
    "other blocks": lambda plain: replace(plain, sees=InBlocks(16)),
    "whole heads rotated": lambda plain: replace(plain, rotated=16),
    "no norms of queries and keys": in_layers(lambda layer: replace(layer, qk_norms=None)),
    "fused by groups of heads": in_layers(_fused_otherwise), "no shared expert": in_layers(_without_shared),
    "weights as they are": _routed(divides=False), "the bias in the weights": _routed(weighs_bias=True),
    "no bias": _routed(bias_X=torch.zeros(16)), "no groups": _routed(kept=4), "not scaled": _routed(scale=1.0),
}


@pytest.mark.parametrize("fault", [*FAULTS.values(), *OWN.values()], ids=[*FAULTS, *OWN])
def test_a_fault_would_show(fault: Fault, tmp_path: Path) -> None:
    check_fault(published(), fault, tmp_path)


def test_fed_block_after_block_it_gives_the_same(tmp_path: Path) -> None:
    check_cached(published(), 32, tmp_path)


@pytest.mark.parametrize("decoder", [presets.llada2(steps=8, tau=0.3), presets.llada2_1(draft_tau=0.2, edit_tau=0.4)],
                         ids=["llada2", "llada2_1"])
def test_it_decodes_as_a_plain_model(decoder: Decoder, tmp_path: Path) -> None:
    check_decodes(published(), decoder, tmp_path, grid=32)


def test_mask_token_and_block_are_those_of_its_code(tmp_path: Path) -> None:
    checkpoint = published(vocab_size=157_184, hidden_size=8, num_hidden_layers=2, num_experts=4, **NO_GROUPS)
    assert load(checkpoint.saved(tmp_path), say=lambda line: None).model.spec.mask_id == 156_895
    with pytest.raises(ValueError, match="mask_id=156895"):
        load(published().saved(tmp_path), say=lambda line: None)


def test_the_routers_stay_as_they_are_in_the_file_whatever_the_dtype(tmp_path: Path) -> None:
    checkpoint = published()
    mixture: Any = checkpoint.loaded(tmp_path, torch.bfloat16).model.transformer.blocks[1]
    assert torch.equal(mixture.ffn.router.bias_X, checkpoint.weights["model.layers.1.mlp.gate.expert_bias"])
    assert torch.equal(mixture.ffn.router.weight, checkpoint.weights["model.layers.1.mlp.gate.weight"])


@pytest.mark.parametrize(("name", "value"), [
    ("norm_head", True), ("norm_softmax", True), ("norm_topk_prob", False), ("router_dtype", "bf16"),
    ("score_function", "softmax"), ("use_rmsnorm", False), ("using_split_qkv_in_self_attention", True),
    ("moe_router_enable_expert_bias", False), ("use_sliding_window", True), ("rotary_dim", 16),
    ("num_nextn_predict_layers", 1),
])
def test_what_is_computed_otherwise_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"config.json: {name}"):
        replace(published(), config=CONFIG | {name: value}).loaded(tmp_path)


def test_where_the_configuration_is_silent_its_codes_defaults_hold(tmp_path: Path) -> None:
    """A bias of the output, half of each head rotated, 8 groups of which 4 are seen, weights times 2.5."""
    silent = ("use_bias", "partial_rotary_factor", "rotary_dim", "n_group", "topk_group", "routed_scaling_factor")
    checkpoint = published(use_bias=True, n_group=8, topk_group=4, vocab_size=VOCAB_SIZE)
    config = {name: value for name, value in checkpoint.config.items() if name not in silent}
    check_same(replace(checkpoint, config=config), tmp_path)
