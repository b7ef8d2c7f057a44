"""What is saved is what was loaded, or nothing is there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from quicksilver.models import LoadedModel, load, save, saving
from quicksilver.models.checkpoints.safetensors_header import tensors_in
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.models.families.transformers_model import Variant


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    folder = tmp_path / "published"
    Variant("Llama").saved(folder)
    (folder / "tokenizer.json").write_text('{"a": "\u00e4"}', encoding="utf-8")
    (folder / "modeling_llama.py").write_text("raise SystemExit")
    return load(folder, device="cpu", say=lambda line: None)


def test_files_are_passed_on_and_code_is_not(loaded: LoadedModel, tmp_path: Path) -> None:
    save(loaded, tmp_path / "new" / "again")
    again = tmp_path / "new" / "again"
    assert {path.name for path in again.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    for name in ("tokenizer.json", "generation_config.json"):
        assert (again / name).read_bytes() == (loaded.path / name).read_bytes()
    assert json.loads((again / "config.json").read_text()) == loaded.published
    assert again.stat().st_mode & 0o777 == (tmp_path / "new").stat().st_mode & 0o777


def test_the_dtype_is_that_of_the_weights(loaded: LoadedModel, tmp_path: Path) -> None:
    half = load(loaded.path, device="cpu", dtype=torch.bfloat16, say=lambda line: None)
    save(half, tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    assert {info.dtype for info in tensors_in(tmp_path / "half" / "model.safetensors").values()} == {"BF16"}
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert again.dtype == torch.bfloat16
    assert torch.equal(again.get_output_embeddings().weight, half.model.transformer.head.weight)
    old = tmp_path / "old"
    Variant("Llama").saved(old)
    values = json.loads((old / "config.json").read_text())
    values["torch_dtype"] = values.pop("dtype")
    (old / "config.json").write_text(json.dumps(values))
    save(load(old, device="cpu", dtype=torch.float64, say=lambda line: None), tmp_path / "double")
    assert json.loads((tmp_path / "double" / "config.json").read_text()) == values | {"torch_dtype": "float64"}


def test_it_is_cut_into_shards(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "_SHARD_BYTES", 60_000)
    save(loaded, tmp_path / "again")
    shards = sorted((tmp_path / "again").glob("*.safetensors"))
    assert len(shards) > 3
    assert all(sum(tensor.nbytes for tensor in load_file(shard).values()) <= 60_000 for shard in shards)
    weights = load_file(loaded.path / "model.safetensors")
    assert {name: tensor.tolist() for shard in shards for name, tensor in load_file(shard).items()} == {
        name: tensor.tolist() for name, tensor in weights.items()}
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.state_dict().items())
    load(tmp_path / "again", device="cpu", say=lambda line: None)


@pytest.mark.parametrize("what", ["a file in it", "a file", "a link"])
def test_what_is_there_is_not_written_over(what: str, loaded: LoadedModel, tmp_path: Path) -> None:
    folder = tmp_path / "there"
    if what == "a file in it":
        folder.mkdir()
        (folder / "x").write_text("kept")
    elif what == "a file":
        folder.write_text("kept")
    else:
        folder.symlink_to("nowhere")
    with pytest.raises(ValueError, match="there: must be a new folder or an empty one"):
        save(loaded, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published", "there"]


def test_nothing_is_there_when_it_fails(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, values: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "_write_json", full)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="No space left"):
        save(loaded, tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "published"]
    assert not list((tmp_path / "empty").iterdir())


def test_weights_that_are_held_packed_stay_so(
        tmp_path: Path, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from quicksilver.kernels import packed_linear
    monkeypatch.setattr(packed_linear, "_IS_INTEL", False)
    monkeypatch.setattr(packed_linear, "_HAS_AVX512", True)
    monkeypatch.setitem(packed_linear.LEAST_BYTES, torch.float32, 1)
    packed = load(loaded.path, device="cpu", say=lambda line: None)
    save(packed, tmp_path / "again")
    assert all(layer.is_only_packed for layer in packed.model.transformer.linear_layers)
    weights, again = (load_file(folder / "model.safetensors") for folder in (loaded.path, tmp_path / "again"))
    assert all(torch.equal(weights[name], again[name]) for name in weights)
