import copy
import pickle
from pathlib import Path

import pytest
import torch
from quicksilver.decoders import Decoder, Greedy, Linear, Recompute, Request, TopProbability, Whole, presets
from quicksilver.kernels import packed_linear
from quicksilver.kernels.dispatch import named, recording
from quicksilver.kernels.packed_linear import LEAST_BYTES
from quicksilver.models import (
    AttentionPattern,
    Bidirectional,
    Causal,
    DecodableTransformer,
    Shape,
    Transformer,
    TransformerConfig,
    layers,
    load_checkpoint,
    save_checkpoint,
)

WIDTH = 256
# The feed-forward layer's first weight is just large enough; the others are not.
SHAPE = Shape(width=WIDTH, num_layers=1, num_heads=4, num_kv_heads=4,
              ffn_width=LEAST_BYTES[torch.float32] // (8 * WIDTH))
PACKED = "cpu (weights packed by oneDNN)"


def transformer(attention: AttentionPattern) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(40, 24, attention, SHAPE)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model


def packed_layer(model: Transformer) -> layers.Linear:
    """The layer whose weight is large enough."""
    layer = model.get_submodule("blocks.0.ffn.gate_up_proj")
    assert isinstance(layer, layers.Linear)
    return layer


@pytest.fixture(autouse=True)
def any_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor whose products of one row are packed too."""
    monkeypatch.setattr(packed_linear, "_IS_INTEL", False)
    monkeypatch.setattr(packed_linear, "_HAS_AVX512", True)


@pytest.mark.parametrize(("attention", "decoder"), [
    (Causal(), presets.autoregressive()),
    (Bidirectional(), Decoder(Whole(), Linear(4), Greedy(), TopProbability(), Recompute()))], ids=str)
def test_tokens_and_counts_are_those_of_plain_weights(
        attention: AttentionPattern, decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    model = transformer(attention)
    requests = [Request([3, 1, 4, *[39] * 12], start=3, seed=seed) for seed in range(2)]
    found = []
    for has_operator, what in ((True, PACKED), (False, None)):
        monkeypatch.setattr(packed_linear, "_HAS_OPERATOR", has_operator)
        decodable = DecodableTransformer(model, 39, int(isinstance(attention, Causal)))
        with recording() as ran:
            run = decoder.begin(decodable, requests)
            for _ in decoder.stream(run):
                pass
            found.append(([each.tokens for each in decoder.completions(run)], run.accounting.to_json(decodable)))
        assert named(ran).get("linear") == what
    assert found[0] == found[1]


def test_a_weight_changed_behind_pytorchs_back_is_packed_with_the_next_decodable_model() -> None:
    model = transformer(Bidirectional())
    assert model.pack() == LEAST_BYTES[torch.float32]
    layer = packed_layer(model)
    layer.weight.data.zero_()
    DecodableTransformer(model, 39)
    with torch.inference_mode(), recording() as ran:
        assert layer(torch.ones(3, WIDTH)).count_nonzero() == 0
    assert named(ran)["linear"] == PACKED


def test_weights_are_not_held_twice_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    model = transformer(Bidirectional())
    num_bytes = packed_layer(model).weight.nbytes
    assert model.pack() == num_bytes
    monkeypatch.setattr("quicksilver.models.transformer.free_memory_bytes", lambda: 2 * num_bytes - 1)
    assert model.pack() == 0
    assert packed_layer(model).packed is None
    monkeypatch.setattr("quicksilver.models.transformer.free_memory_bytes", lambda: 2 * num_bytes + 1)
    assert model.pack() == LEAST_BYTES[torch.float32]


def test_training_goes_on_as_before() -> None:
    model = transformer(Bidirectional())
    model.pack()
    tokens_BL = torch.arange(20)[None]
    model.head(model.sequence_hidden(tokens_BL)).square().mean().backward()
    layer = packed_layer(model)
    assert layer.weight.grad is not None
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    with torch.inference_mode(), recording() as ran:
        model.sequence_hidden(tokens_BL)
    assert "linear" not in named(ran)


def test_copies_and_files_do_not_hold_it(tmp_path: Path) -> None:
    model = transformer(Bidirectional())
    names = set(model.state_dict())
    model.pack()
    assert set(model.state_dict()) == names
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert packed_layer(other).packed is None
        assert torch.equal(packed_layer(other).weight, packed_layer(model).weight)
    save_checkpoint(tmp_path / "weights.safetensors", model)
    assert packed_layer(load_checkpoint(tmp_path / "weights.safetensors")).packed is None
