"""A mixture in a model whose experts are packed: the same results, what is on record, and what does not take them."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from quicksilver.kernels import packed_experts, packed_linear
from quicksilver.kernels.dispatch import named, recording
from quicksilver.models import Bidirectional, MoELayer, Transformer, load_checkpoint, save_checkpoint
from quicksilver.models.linear import Linear
from torch import Tensor

from tests.conftest import VOCAB_SIZE, random_transformer

from .test_mixture import RICH


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where packing pays, though experts be small; linear layers are too small for it."""
    monkeypatch.setattr(packed_linear, "_IS_INTEL", False)
    monkeypatch.setattr(packed_linear, "_HAS_AVX512", True)
    monkeypatch.setitem(packed_experts.LEAST_BYTES, torch.float32, 1)


def packed_model() -> tuple[Transformer, MoELayer]:
    """A model, its mixture packed, and this."""
    model = random_transformer(Bidirectional(), experts=RICH)
    mixture = model.blocks[1].ffn
    assert isinstance(mixture, MoELayer)
    assert model.pack() == mixture.gate_up_XGE.nbytes + mixture.down_XEM.nbytes
    assert model.is_packed
    return model, mixture


def hidden(model: Transformer, num_positions: int) -> tuple[Tensor, str]:
    """Of a row, and what ran of its experts."""
    with torch.inference_mode(), recording() as ran:
        found = model.sequence_hidden(torch.arange(num_positions)[None] % VOCAB_SIZE)
    return found, named(ran)["experts"]


@pytest.mark.usefixtures("packs")
@pytest.mark.parametrize("num_positions", [1, 5])
def test_a_packed_model_is_the_same_and_says_so(num_positions: int) -> None:
    model, _ = packed_model()
    found, what = hidden(model, num_positions)
    assert what == "cpu (weights packed by oneDNN)"
    model.unpack()
    assert not model.is_packed
    expected, what = hidden(model, num_positions)
    assert "packed" not in what
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("packs")
def test_experts_are_not_held_twice_where_memory_is_short_though_linear_layers_are(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packed_linear.LEAST_BYTES, torch.float32, 1)
    model = random_transformer(Bidirectional(), experts=RICH)
    linear_bytes = sum(layer.weight.nbytes for layer in model.modules() if isinstance(layer, Linear))
    expert_bytes = sum(layer.num_weight_bytes for layer in model.modules() if isinstance(layer, MoELayer))
    for free, taken in ((2 * linear_bytes - 1, expert_bytes * (linear_bytes > expert_bytes)),
                        (2 * linear_bytes, linear_bytes), (2 * (linear_bytes + expert_bytes) - 1, linear_bytes),
                        (2 * (linear_bytes + expert_bytes), linear_bytes + expert_bytes)):
        monkeypatch.setattr("quicksilver.models.transformer.free_memory_bytes", lambda free=free: free)
        assert model.pack() == taken


@pytest.mark.usefixtures("packs")
def test_training_casts_and_copies_do_not_take_the_packed_experts(tmp_path: Path) -> None:
    model, mixture = packed_model()
    names = set(model.state_dict())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not other.is_packed
        assert torch.equal(hidden(other, 5)[0], hidden(copy.deepcopy(model), 5)[0])
    save_checkpoint(tmp_path / "weights.safetensors", model)
    assert not load_checkpoint(tmp_path / "weights.safetensors").is_packed
    assert set(model.state_dict()) == names == set(random_transformer(Bidirectional(), experts=RICH).state_dict())
    model.sequence_hidden(torch.arange(5)[None]).square().mean().backward()
    assert mixture.gate_up_XGE.grad is not None
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    trained = hidden(model, 5)
    assert "packed" not in trained[1]
    model.unpack()
    assert torch.equal(hidden(model, 5)[0], trained[0])
    model.pack()
    assert "packed" not in hidden(model.double(), 5)[1]


@pytest.mark.usefixtures("packs")
def test_hooks_on_a_packed_mixture_run_as_before() -> None:
    model, mixture = packed_model()
    mixture.register_forward_hook(lambda *_: torch.zeros(1, 5, 32))
    found, what = hidden(model, 5)
    mixture.gate_up_XGE.data.zero_()
    model.pack()
    assert what == "cpu (weights packed by oneDNN)"
    assert torch.equal(hidden(model, 5)[0], found)
