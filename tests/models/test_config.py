"""Shapes and configurations: what is refused, and the cost formulas against counting."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from quicksilver.kernels.moe_router import Routing
from quicksilver.kernels.moe_sort import ExpertLoad
from quicksilver.models import Bidirectional, Causal, ExpertShape, MoELayer, Shape, TransformerConfig
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import MAX_LENGTH, random_transformer

EXPERTS = ExpertShape(num_experts=6, expert_width=20, routing=Routing(top_k=2), shared_width=12, num_dense_layers=1)
FULL_HEADS: dict[str, Any] = {
    "full_head_dim": 12, "full_kv_heads": 1, "values_from_keys": True, "windowed_layers": (0,), "window": 9,
    "window_rope_theta": 10.0, "value_norm": True}
BESIDE: dict[str, Any] = {
    "experts": ExpertShape(6, 20, Routing(top_k=2), beside_dense=True), "gelu": True, "post_norms": True}


def grouped_flops(rows: tuple[int, int], weights: tuple[int, int, int], *_: object, **__: object) -> int:
    """Of rows [P, K], each times one of the weights [X, K, N]."""
    return 2 * rows[0] * weights[1] * weights[2]


@pytest.mark.parametrize("options", [{}, {"num_kv_heads": 4}, {"num_kv_heads": 1}, {"head_dim": 12},
                                     {"experts": EXPERTS}, FULL_HEADS, BESIDE,
                                     {"experts": replace(EXPERTS, num_dense_layers=0, dense_layers=(1,))}], ids=str)
def test_flops_are_those_that_the_model_does(options: dict[str, Any]) -> None:
    model = random_transformer(Bidirectional(), **options)
    tokens = torch.zeros(3, 8, dtype=torch.int64)
    # The counter does not know the CPU's fused attention, only the products that define it, nor grouped products.
    grouped = {torch.ops.aten._grouped_mm: grouped_flops}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=grouped) as counter:
        model.head(model.sequence_hidden(tokens))
    assert counter.get_total_flops() == model.config.forward_flops(3 * 8, 3 * 8 * 8, 3 * 8)


@pytest.mark.parametrize("options", [{}, {"num_kv_heads": 1}, {"head_dim": 12}], ids=str)
def test_bytes_are_every_matrix_the_head_and_what_is_stored(options: dict[str, Any]) -> None:
    model = random_transformer(Bidirectional(), **options)
    block_matrices = sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    assert model.config.num_matrix_parameters() == model.config.num_active_matrix_parameters() == block_matrices
    shape = model.config.shape
    assert model.config.kv_bytes_per_position() == 2 * 2 * shape.num_kv_heads * shape.head_width * 4
    assert model.config.forward_bytes(1, 5, 1) == 4 * (block_matrices + model.head.weight.numel()) + 5 * (
        model.config.kv_bytes_per_position())
    assert model.config.forward_bytes(9, 0, 0, bytes_per_element=2) == 2 * block_matrices


def test_a_mixture_counts_all_experts_and_the_active_ones() -> None:
    model = random_transformer(Bidirectional(), experts=EXPERTS)
    matrices = sum(p.numel() for p in model.blocks.parameters() if p.ndim > 1)
    assert model.config.num_matrix_parameters() == matrices
    mixtures = [block.ffn for block in model.blocks if isinstance(block.ffn, MoELayer)]
    assert len(mixtures) == 1
    one_expert = (mixtures[0].gate_up_XGE.numel() + mixtures[0].down_XEM.numel()) // EXPERTS.num_experts
    assert model.config.num_active_matrix_parameters() == matrices - (6 - 2) * one_expert
    assert model.config.forward_bytes(7, 0, 0, num_distinct_experts=2.5) == 4 * (matrices - 3.5 * one_expert)
    expected = 6 * (1 - (4 / 6) ** 7)
    assert model.config.forward_bytes(7, 0, 0) == round(4 * (matrices - (6 - expected) * one_expert))


@pytest.mark.parametrize(("num_positions", "num_experts"), [(1, 64), (8, 64), (32, 64), (8, 256), (32, 256)])
def test_distinct_experts_are_as_many_as_uniform_draws_touch(num_positions: int, num_experts: int) -> None:
    shape = ExpertShape(num_experts, 1, Routing(8))
    draws = 400
    expert_TA = ExpertLoad(draws * num_positions, num_experts, 8).draw().view(draws, -1)
    touched = sum(len(row.unique()) for row in expert_TA) / draws
    assert shape.expected_distinct(num_positions) == pytest.approx(touched, rel=0.01)


@pytest.mark.parametrize(("field", "value"), [
    ("width", 0), ("num_heads", 3), ("num_kv_heads", 3), ("rope_fraction", 1.5), ("rope_fraction", 0.1),
    ("norm_eps", 0), ("ffn_width", "wide"), ("rope_theta", -1), ("experts", 8),
    ("head_dim", 0), ("clip_qkv", -1.0), ("window", 0), ("windowed_layers", (4,)), ("windowed_layers", (1,)),
    ("attention_scale", 0), ("embedding_scale", "wide"), ("window_rope_theta", 0), ("full_head_dim", 0),
    ("full_head_dim", 12), ("full_kv_heads", 3), ("logit_cap", 0)])
def test_a_bad_shape_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field}\W"):
        Shape(**{field: value})


@pytest.mark.parametrize(("field", "value"), [
    ("num_experts", 0), ("expert_width", 1.5), ("routing", 8), ("shared_width", -1), ("num_dense_layers", -1),
    ("selection_bias", 1), ("dense_layers", (-1,)), ("beside_dense", 1)])
def test_a_bad_mixture_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field}\W"):
        ExpertShape(**{"num_experts": 8, "expert_width": 4, "routing": Routing(2), field: value})


def test_experts_that_the_routing_or_the_depth_cannot_serve_are_refused() -> None:
    with pytest.raises(ValueError, match="top_k=9"):
        ExpertShape(8, 4, Routing(9))
    with pytest.raises(ValueError, match="num_dense_layers=4: must leave some of the 4 layers"):
        Shape(experts=ExpertShape(8, 4, Routing(2), num_dense_layers=4))
    with pytest.raises(ValueError, match="beside_dense=True with shared_width=3"):
        ExpertShape(8, 4, Routing(2), shared_width=3, beside_dense=True)
    bad: tuple[dict[str, Any], ...] = {"gelu": False}, {"full_head_dim": 13}
    with pytest.raises(ValueError, match="beside_dense=True with gelu=False and post_norms=True"):
        Shape(**BESIDE | bad[0])
    with pytest.raises(ValueError, match="must rotate an even number of the head's 13 dimensions"):
        Shape(**FULL_HEADS | bad[1])


def test_a_bad_config_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size=1"):
        TransformerConfig(1, MAX_LENGTH, Causal())
    with pytest.raises(ValueError, match="max_length=0"):
        TransformerConfig(4, 0, Causal())
