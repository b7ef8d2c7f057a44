"""A quantised weight is multiplied and copied; whoever wants its floats is told what to do."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from quicksilver.kernels.quantized_linear import Form, dense, quantized
from quicksilver.models.linear import Embedding, Linear
from quicksilver.models.quantized_parameter import QuantizedParameter
from torch import nn

X_MK = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def layer() -> Linear:
    torch.manual_seed(0)
    layer = Linear(64, 96, bias=False)
    layer.quantize(quantized(layer.weight.detach(), Form.INT4))
    return layer


def values(layer: Linear) -> torch.Tensor:
    assert isinstance(layer.weight, QuantizedParameter)
    return dense(layer.weight.quantized)


WANTS: list[Callable[[Linear], object]] = [
    lambda layer: layer.weight + 1, lambda layer: layer.weight.data, lambda layer: layer.state_dict(),
    lambda layer: layer.weight[0], lambda layer: layer.weight.mul_(2), lambda layer: layer.weight.detach(),
    lambda layer: layer.weight.copy_(torch.zeros(96, 64)), lambda layer: torch.stack([layer.weight]),
    lambda layer: layer.load_state_dict({"weight": torch.zeros(96, 64)}), Linear.bfloat16, Linear.share_memory,
    lambda layer: layer.to("meta"), lambda layer: pickle.dumps(layer), lambda layer: layer.requires_grad_(True),
    lambda layer: layer.weight.requires_grad_(), lambda layer: setattr(layer.weight, "requires_grad", True),
    lambda layer: setattr(layer.weight, "data", torch.zeros(96, 64)), lambda layer: nn.Linear.forward(layer, X_MK),
    lambda layer: torch.optim.SGD([layer.weight + 0], 0.1), lambda layer: layer.weight.numpy()]


@pytest.mark.parametrize("want", WANTS)
def test_who_wants_its_floats_is_refused_and_it_stays_what_it_is(want: Callable[[Linear], object], layer: Linear
                                                                 ) -> None:
    expected = values(layer)
    with pytest.raises((ValueError, RuntimeError), match=r"call Transformer\.dequantize\(\) first") as refused:
        want(layer)
    assert refused.type is ValueError or "load_state_dict" in str(refused.value) or "state_dict" in str(refused.value)
    assert torch.equal(values(layer), expected)
    assert not layer.weight.requires_grad


def test_what_it_is_can_be_asked_and_it_takes_no_other_memory(layer: Linear) -> None:
    weight = layer.weight
    assert (weight.shape, weight.dtype, weight.device.type, weight.numel()) == ((96, 64), torch.float32, "cpu", 6144)
    assert repr(weight) == "QuantizedParameter(weights of 4 bits in groups of 32, shape=[96, 64])"
    layer.requires_grad_(False)
    with torch._C.DisableTorchFunctionSubclass():
        assert weight.untyped_storage().nbytes() == 4
    assert layer.num_weight_bytes == 128 * (32 + 2 * 4)


def test_copies_multiply_alike_and_share_it(layer: Linear) -> None:
    copied = copy.deepcopy(layer)
    assert isinstance(copied.weight, QuantizedParameter)
    assert isinstance(layer.weight, QuantizedParameter)
    assert copied.weight.quantized is layer.weight.quantized
    with torch.no_grad():
        assert torch.equal(copied(X_MK), layer(X_MK))
    copied.dequantize()
    assert layer.is_quantized


def test_floats_again_it_is_the_same_object_trains_and_moves(layer: Linear) -> None:
    weight, expected = layer.weight, values(layer)
    layer.dequantize()
    assert layer.weight is weight
    assert type(weight) is nn.Parameter
    assert torch.equal(weight, expected)
    layer(X_MK).sum().backward()
    assert weight.grad is not None
    assert layer.bfloat16().state_dict()["weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("form", Form)
def test_an_embedding_that_has_it_looks_up_its_values(form: Form) -> None:
    embedding, head = Embedding(96, 64), Linear(64, 96, bias=False)
    head.weight = embedding.weight
    head.quantize(quantized(head.weight.detach(), form))
    tokens = torch.tensor([[3, 95, 3]])
    assert torch.equal(embedding(tokens), values(head)[tokens])


def test_packing_leaves_it(layer: Linear) -> None:
    assert not layer.pays(1 << 30)
    assert layer.pack(1 << 30) == layer.pack_alone(1 << 30) == 0
    layer.unpack()
    assert layer.is_quantized
