"""The transformer: its options, its cost formulas against counting, and position blindness."""

from typing import Any

import pytest
import torch
from quicksilver.models import Bidirectional, Causal, Shape, Transformer, TransformerConfig
from quicksilver.models.transformer import rotate
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import MAX_LENGTH, VOCAB_SIZE, random_transformer

OPTIONS = [{}, {"qk_norm": True}, {"qkv_bias": True}, {"tied_embeddings": True}, {"position_table": False},
           {"num_kv_heads": 4}, {"num_kv_heads": 1}, {"rope_fraction": 0.5}, {"rope_fraction": 0.0}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_changes_the_function_and_trains(options: dict[str, Any]) -> None:
    model = random_transformer(Causal(), **options)
    tokens = torch.randint(0, VOCAB_SIZE, (2, 9), generator=torch.Generator().manual_seed(1))
    logits = model.head(model.sequence_hidden(tokens))
    assert logits.shape == (2, 9, VOCAB_SIZE)
    if options:
        plain = random_transformer(Causal())
        assert not torch.allclose(logits, plain.head(plain.sequence_hidden(tokens)))
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_causal_model_does_not_see_ahead() -> None:
    model = random_transformer(Causal())
    tokens = torch.randint(0, VOCAB_SIZE, (1, 9), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[0, 6] = (changed[0, 6] + 1) % VOCAB_SIZE
    a, b = model.sequence_hidden(tokens), model.sequence_hidden(changed)
    torch.testing.assert_close(a[:, :6], b[:, :6], rtol=0, atol=0)
    assert not torch.allclose(a[:, 6:], b[:, 6:])


@pytest.mark.parametrize(("position_table", "is_blind"), [(False, True), (True, False)])
def test_rope_alone_is_blind_on_an_all_mask_canvas(position_table: bool, is_blind: bool) -> None:
    model = random_transformer(Bidirectional(), position_table=position_table)
    hidden = model.sequence_hidden(torch.full((1, 9), VOCAB_SIZE - 1))
    assert torch.allclose(hidden, hidden[:, :1].expand_as(hidden), atol=1e-5) == is_blind


def test_rotation_turns_pairs_by_their_angle() -> None:
    x = torch.randn(1, 3, 1, 4)
    angle = torch.tensor([0.3, 1.1])
    cos, sin = torch.cat((angle.cos(), angle.cos())), torch.cat((-angle.sin(), angle.sin()))
    turned = torch.view_as_complex(torch.stack((x[..., :2], x[..., 2:]), -1)) * torch.polar(torch.ones(2), angle)
    expected = torch.cat((turned.real, turned.imag), -1)
    torch.testing.assert_close(rotate(x, cos.expand(1, 3, 1, 4), sin.expand(1, 3, 1, 4)), expected)


@pytest.mark.parametrize("options", OPTIONS[:1] + OPTIONS[5:7], ids=str)
def test_cost_formulas_count_what_the_model_does(options: dict[str, Any]) -> None:
    model = random_transformer(Bidirectional(), **options)
    tokens = torch.zeros(3, 8, dtype=torch.int64)
    # The counter does not know the CPU's fused attention, only the products that define it.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.head(model.sequence_hidden(tokens))
    assert counter.get_total_flops() == model.config.forward_flops(3 * 8, 3 * 8 * 8, 3 * 8)
    block_matrices = sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    assert model.config.num_matrix_parameters() == block_matrices
    shape = model.config.shape
    assert model.config.kv_bytes_per_position() == 2 * 2 * shape.num_kv_heads * shape.head_width * 4
    assert model.config.forward_bytes(5, 1) == 4 * (block_matrices + model.head.weight.numel()) + 5 * (
        model.config.kv_bytes_per_position())


@pytest.mark.parametrize(("field", "value"), [
    ("width", 0), ("num_heads", 3), ("num_kv_heads", 3), ("rope_fraction", 1.5), ("rope_fraction", 0.1),
    ("norm_eps", 0), ("ffn_width", "wide"), ("rope_theta", -1)])
def test_a_bad_shape_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field}="):
        Shape(**{field: value})


def test_a_bad_config_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size=1"):
        TransformerConfig(1, MAX_LENGTH, Causal())
    with pytest.raises(ValueError, match="max_length=0"):
        TransformerConfig(4, 0, Causal())


def test_parameters_are_counted() -> None:
    model = Transformer(TransformerConfig(8, 36, Bidirectional()))
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())
