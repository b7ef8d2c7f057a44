"""What is saved is what was loaded, or nothing is there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from quicksilver.models import LoadedModel, load, save, saving
from quicksilver.models.checkpoints.safetensors_header import tensors_in
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.models.checkpoints.gguf_models import SIZE, Written
from tests.models.families.transformers_model import Variant
from tests.models.text.corpus import TEXTS
from tests.models.text.folders import CHAT, byte_level, folder_with
from tests.models.text.recorded_ids import PATH

RECORDED = json.loads(PATH.read_text())
BYTES = RECORDED["byte_level"] | {"tokenizer.ggml.pre": "qwen2"}
FROM_GGUF = [
    Written("llama", "LlamaForCausalLM", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
            RECORDED["sentence_piece"] | {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}),
    Written("llama", "LlamaForCausalLM", keys=BYTES | {"tokenizer.ggml.add_bos_token": True}, type=Type.Q4_1,
            extra={"rope_freqs.weight": np.linspace(1, 8, 8, dtype=np.float32)}),
    Written("qwen2", "Qwen2ForCausalLM", {"tie_word_embeddings": True}, BYTES),
    Written("qwen3", "Qwen3ForCausalLM", {"head_dim": 32}, BYTES | {"tokenizer.ggml.add_eos_token": True},
            type=Type.Q8_0),
]


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


@pytest.mark.parametrize("written", FROM_GGUF, ids=str)
def test_a_gguf_becomes_a_folder_for_transformers_and_for_us(written: Written, tmp_path: Path) -> None:
    """The same logits, the same ids, but for texts that begin with BOS, which get a second one from transformers, and
    those whose characters its Qwen2 composes."""
    keys = {**written.keys, "tokenizer.chat_template": CHAT}
    loaded = load(replace(written, keys=keys).write(tmp_path), device="cpu", say=lambda line: None)
    save(loaded, tmp_path / "again")
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
    ours = load(tmp_path / "again", device="cpu", say=lambda line: None)
    tokens_BL = torch.randint(0, SIZE["vocab_size"], (2, 80), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, found = (model.logits(model.transformer.sequence_hidden(tokens_BL))
                         for model in (loaded.model, ours.model))
        distance = (theirs(tokens_BL).logits - wanted).abs().max() / wanted.abs().max()
    assert torch.equal(found, wanted)
    assert distance < 1e-5
    text, again = loaded.tokenizer, ours.tokenizer
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "again")
    for line in (line for line in TEXTS if not line.startswith(text.special_tokens["bos_token"])):
        for adds in (False, True):
            ids = text.encode(line, add_special_tokens=adds)
            assert again.encode(line, add_special_tokens=adds) == ids
            assert normalize("NFC", line) != line or tokenizer.encode(line, add_special_tokens=adds) == ids
        assert again.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True) == text.decode(ids)
    assert (again.special_tokens, again.end_ids) == (text.special_tokens, text.end_ids)
    assert theirs.generation_config.eos_token_id == list(text.end_ids)
    asked = [{"role": "user", "content": "a  12 b"}]
    ids = text.apply_chat_template(asked)
    assert ids == again.apply_chat_template(asked)
    assert ids == tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]


def test_a_gguf_without_a_tokenizer_is_saved_without_one(tmp_path: Path) -> None:
    save(load(FROM_GGUF[0].write(tmp_path), device="cpu", say=lambda line: None), tmp_path / "with")
    bare = replace(FROM_GGUF[2], keys={"tokenizer.ggml.eos_token_id": 3})
    save(load(bare.write(tmp_path), device="cpu", say=lambda line: None), tmp_path / "without")
    assert {path.name for path in (tmp_path / "without").iterdir()} == {"config.json", "model.safetensors"}
    assert {path.name for path in (tmp_path / "with").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"}


def test_a_ggufs_tokenizer_that_cannot_be_read_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    odd = replace(FROM_GGUF[2], keys=BYTES | {"tokenizer.ggml.pre": "unheard-of"})
    loaded = load(odd.write(tmp_path), device="cpu", say=lambda line: None)
    with pytest.raises(ValueError, match="tokenizer.ggml.pre='unheard-of': must be one of"):
        save(loaded, tmp_path / "again")
    assert not [path for path in tmp_path.iterdir() if "again" in path.name]


def test_a_folders_tokenizer_goes_along(tmp_path: Path) -> None:
    Variant("Llama").saved(tmp_path / "published")
    folder = folder_with(tmp_path / "published", byte_level(), files={"chat_template.jinja": CHAT})
    save(load(folder, device="cpu", say=lambda line: None), tmp_path / "again")
    found, wanted = (AutoTokenizer.from_pretrained(path) for path in (tmp_path / "again", folder))
    assert [found.encode(text) for text in TEXTS] == [wanted.encode(text) for text in TEXTS]
    assert found.chat_template == wanted.chat_template == CHAT
    assert found.special_tokens_map == wanted.special_tokens_map


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
