"""A loaded model's weights are packed once, and a head that is tied to the embedding beside it where that is little."""

from pathlib import Path

import pytest
import torch
from quicksilver.decoders import CapturedSteps, generate, presets
from quicksilver.decoders.capture import program
from quicksilver.kernels import packed_linear
from quicksilver.kernels.dispatch import named, recording
from quicksilver.models import DecodableTransformer, LoadedModel, load
from quicksilver.models.packing import PackedAlone, PackedBeside

from tests.models.families.transformers_model import Variant

PROMPT = [[1, 2, 3]]


@pytest.fixture(autouse=True)
def any_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where weights of any size pay."""
    monkeypatch.setattr(packed_linear, "_IS_INTEL", False)
    monkeypatch.setattr(packed_linear, "_HAS_AVX512", True)
    monkeypatch.setitem(packed_linear.LEAST_BYTES, torch.float32, 1)
    monkeypatch.setattr(program, "_programs", {})


def loaded(folder: Path, is_tied: bool = False) -> tuple[LoadedModel, list[str]]:
    Variant("Llama", {"tie_word_embeddings": is_tied}).saved(folder)
    lines: list[str] = []
    return load(folder, device="cpu", say=lines.append), lines


def test_weights_are_held_once(tmp_path: Path) -> None:
    found, lines = loaded(tmp_path)
    transformer = found.model.transformer
    assert all(layer.is_only_packed for layer in transformer.linear_layers)
    assert transformer.copied_bytes == 0
    assert len(lines) == 1


def test_a_tied_head_is_held_twice_and_said_so(tmp_path: Path) -> None:
    found, lines = loaded(tmp_path, is_tied=True)
    transformer = found.model.transformer
    assert not transformer.head.is_only_packed
    assert transformer.head.weight is transformer.embedding.weight
    assert transformer.copied_bytes == transformer.head.weight.nbytes
    assert "held a second time" in lines[-1]
    PackedAlone(most_beside=0.05).pack(transformer)
    assert transformer.copied_bytes == 0


def test_where_packing_does_not_pay_for_one_row_nothing_is_held_packed_alone(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "_IS_INTEL", True)
    assert not loaded(tmp_path)[0].model.transformer.is_packed


@pytest.mark.parametrize("capture", ["none", "graph", "compile"])
@pytest.mark.parametrize("is_tied", [False, True])
def test_it_decodes_as_with_weights_as_they_lie_and_stays_packed(
        capture: str, is_tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_by_inductor", lambda graph, arguments: graph)  # which takes half a minute
    check_decodes(capture, is_tied, tmp_path)


@pytest.mark.slow
def test_inductors_program_decodes_the_same_and_leaves_weights_packed(tmp_path: Path) -> None:
    check_decodes("compile", False, tmp_path)


def check_decodes(capture: str, is_tied: bool, folder: Path) -> None:
    """A model decodes the same tokens packed and unpacked, and no step unpacks it."""
    found, _ = loaded(folder, is_tied)
    decoder, model = presets.autoregressive(), found.model
    runner = CapturedSteps.named(capture, decoder)
    for _ in range(2):
        generate(model, decoder, PROMPT, num_new=12, runner=runner)
    with recording() as ran:
        tokens = generate(model, decoder, PROMPT, num_new=12, runner=runner).completions[0].tokens
    assert "packed" in named(ran)["linear"]
    assert runner is None or runner.replays.replayed > 0
    assert runner is None or runner.replays.by_program == (runner.replays.replayed if capture == "compile" else 0)
    assert sum(layer.is_only_packed for layer in model.transformer.linear_layers) == 13 - is_tied
    model.transformer.unpack()
    assert not model.transformer.is_packed
    again = generate(model, decoder, PROMPT, num_new=12, runner=runner).completions[0].tokens
    assert again == tokens


def test_another_model_of_the_same_weights_leaves_them_packed(tmp_path: Path) -> None:
    transformer = loaded(tmp_path)[0].model.transformer
    DecodableTransformer(transformer, 3, packing=PackedBeside())
    assert all(layer.is_only_packed for layer in transformer.linear_layers)


def test_most_beside_is_checked() -> None:
    with pytest.raises(ValueError, match="most_beside=-1: must be a number at least 0"):
        PackedAlone(-1)
