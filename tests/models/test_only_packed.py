"""A weight that is held packed alone multiplies as before, and is given back to whoever reads it."""

import copy
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from quicksilver.kernels import packed_linear
from quicksilver.kernels.dispatch import Implementation, named, recording, using
from quicksilver.models.linear import Linear
from torch import nn

PACKED = "cpu (weights packed by oneDNN)"
WEIGHT_NK = torch.randn(1024, 512, generator=torch.Generator().manual_seed(0))  # 2 MiB
X_MK = torch.randn(3, 512, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Linear:
    monkeypatch.setattr(packed_linear, "_IS_INTEL", False)
    monkeypatch.setattr(packed_linear, "_HAS_AVX512", True)
    layer = Linear(512, 1024, bias=False)
    layer.load_state_dict({"weight": WEIGHT_NK})
    assert layer.pack_alone(WEIGHT_NK.nbytes) == WEIGHT_NK.nbytes
    return layer


def products(layer: Linear) -> str | None:
    """How the layer multiplies."""
    with torch.no_grad(), recording() as ran:
        found_MN = layer(X_MK)
    torch.testing.assert_close(found_MN, X_MK @ WEIGHT_NK.T, rtol=1e-5, atol=1e-4)
    return named(ran).get("linear")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weight_comes_back_to_the_bit(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "_IS_INTEL", False)
    monkeypatch.setattr(packed_linear, "_HAS_AVX512", True)
    for outputs, inputs in ((1024, 512), (997, 1531), (3000, 577)):
        weight_NK = torch.randn(outputs, inputs).to(dtype)
        weight_NK[0, :4] = torch.tensor([-0.0, torch.finfo(dtype).tiny / 4, torch.inf, torch.nan])
        layer = Linear(inputs, outputs, bias=False, dtype=dtype)
        layer.load_state_dict({"weight": weight_NK})
        if not layer.pack_alone(weight_NK.nbytes):
            pytest.skip(f"this processor has no products of {dtype}")
        bits = torch.int32 if dtype == torch.float32 else torch.int16
        assert torch.equal(layer.weight.detach().view(bits), weight_NK.view(bits))


def test_it_multiplies_any_number_of_rows(layer: Linear) -> None:
    with torch.inference_mode(), recording() as ran:
        for rows in (0, 1, 2, 200):
            x_MK = torch.randn(rows, 512)
            torch.testing.assert_close(layer(x_MK), x_MK @ WEIGHT_NK.T, rtol=1e-5, atol=1e-4)
    assert named(ran)["linear"] == PACKED
    assert layer.is_only_packed


def test_it_takes_the_memory_of_the_packed_weight_alone(layer: Linear) -> None:
    assert layer.weight.shape == WEIGHT_NK.shape
    assert layer.weight.device.type == "cpu"
    with torch._C.DisableTorchFunctionSubclass():
        assert layer.weight.untyped_storage().nbytes() == 4
    assert layer.is_only_packed


READERS: list[Callable[[Linear], object]] = [
    lambda layer: layer.weight + 1, lambda layer: layer.weight.data, lambda layer: layer.state_dict(),
    lambda layer: layer.weight.data_ptr(), lambda layer: layer.weight[0, 0].item(), lambda layer: repr(layer.weight),
    lambda layer: torch.cat([layer.weight]), lambda layer: layer.weight.untyped_storage(),
    lambda layer: layer.weight.numpy(force=True), lambda layer: layer(X_MK.clone().requires_grad_()), Linear.unpack,
    lambda layer: nn.functional.linear(X_MK, weight=layer.weight), Linear.float, Linear.share_memory]


@pytest.mark.parametrize("read", READERS)
def test_who_reads_it_has_it_as_it_was_and_only_once(read: Callable[[Linear], object], layer: Linear) -> None:
    weight = layer.weight
    read(layer)
    assert layer.weight is weight
    assert type(weight) is nn.Parameter
    assert layer.packed is None
    assert torch.equal(weight, WEIGHT_NK)
    assert products(layer) is None


def test_training_goes_on_as_before(layer: Linear) -> None:
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    with torch.inference_mode():
        layer(X_MK)
    layer(X_MK).square().mean().backward()
    optimizer.step()
    plain = Linear(512, 1024, bias=False)
    plain.load_state_dict({"weight": WEIGHT_NK})
    other = torch.optim.AdamW(plain.parameters(), lr=0.1)
    plain(X_MK).square().mean().backward()
    other.step()
    assert torch.equal(layer.weight, plain.weight)


def test_given_back_in_inference_it_can_be_trained(layer: Linear) -> None:
    with torch.inference_mode():
        layer.weight.sum()
    layer(X_MK).square().mean().backward()
    assert layer.weight.grad is not None


def test_it_is_loaded_moved_and_cast_as_any(layer: Linear) -> None:
    layer.load_state_dict({"weight": WEIGHT_NK + 1})
    assert torch.equal(layer.weight, WEIGHT_NK + 1)
    layer.pack_alone(WEIGHT_NK.nbytes)
    assert torch.equal(layer.to(torch.bfloat16).weight, (WEIGHT_NK + 1).bfloat16())
    assert layer.to("meta").weight.is_meta


def test_copies_hold_the_weight_and_leave_it_packed(layer: Linear, tmp_path: Path) -> None:
    torch.save(layer, tmp_path / "layer")
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)),
                  torch.load(tmp_path / "layer", weights_only=False)):
        assert type(other.weight) is nn.Parameter
        assert torch.equal(other.weight, WEIGHT_NK)
    assert layer.is_only_packed
    assert products(layer) == PACKED


def test_the_reference_is_multiplied_by_the_weight_as_it_lies(layer: Linear) -> None:
    with using(Implementation.REFERENCE):
        assert products(layer) is None
    assert not layer.is_only_packed


def test_the_packed_weight_is_let_go_of(layer: Linear) -> None:
    assert layer.packed is not None
    packed = weakref.ref(layer.packed.packed)
    assert packed() is not None
    layer.weight.sum()
    assert packed() is None
