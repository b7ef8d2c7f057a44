"""A damaged or lying folder ends in one line that names what is wrong, or in the clean one's logits."""

import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from quicksilver.models import load
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models.checkpoints.mutations import INDEX, mutate
from tests.models.families.transformers_model import SIZE, Variant

SPARE_BYTES = 16 << 20  # what a load of the folder takes, of the allocator's granularity for the most part


def logits(folder: Path) -> Tensor:
    loaded = load(folder, device="cpu", say=lambda line: None)
    tokens_BL = torch.arange(24).reshape(2, 12) % SIZE["vocab_size"]
    with torch.no_grad():
        return loaded.model.logits(loaded.model.transformer.sequence_hidden(tokens_BL))


def outcome(folder: Path) -> Tensor | Exception:
    try:
        return logits(folder)
    except Exception as error:
        return error


def is_a_line(error: Exception, folder: Path) -> bool:
    return isinstance(error, ValueError) and str(error).startswith(str(folder)) and str(error).isprintable()


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """A folder of several shards, and what it gives."""
    folder = tmp_path_factory.mktemp("clean")
    model = Variant("Llama").saved(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")  # pyright: ignore[reportCallIssue]
    (folder / "generation_config.json").unlink()
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder, logits(folder)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """No more address space than there is and SPARE_BYTES: whoever believes a size that is claimed gets an error that
    is no ValueError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def check(seeds: range, clean: tuple[Path, Tensor], tmp_path: Path) -> None:
    folder, wanted = clean
    num_refused = 0
    for seed in seeds:
        damaged = tmp_path / f"{seed}"
        shutil.copytree(folder, damaged)
        what = mutate(damaged, seed)
        found = outcome(damaged)
        if isinstance(found, Tensor):
            assert torch.equal(found, wanted), f"mutation {seed}, {what}: other logits"
        else:
            num_refused += 1
            assert is_a_line(found, damaged), f"mutation {seed}, {what}: {found!r}"
        shutil.rmtree(damaged)
    assert num_refused > 0.7 * len(seeds)


@pytest.mark.usefixtures("little_memory")
def test_every_mutation_is_refused_by_a_line_or_changes_nothing(clean: tuple[Path, Tensor], tmp_path: Path) -> None:
    check(range(200), clean, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("little_memory")
def test_two_thousand_mutations(clean: tuple[Path, Tensor], tmp_path: Path) -> None:
    check(range(200, 2200), clean, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_found_in_the_last_row(value: float, tmp_path: Path) -> None:
    Variant("Llama").saved(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][-1, -1] = value
    save_file(tensors, path)
    with pytest.raises(ValueError, match="tensor model.layers.1.mlp.up_proj.weight: holds a number that is not finite"):
        load(tmp_path, device="cpu", say=lambda line: None)


def test_a_number_too_large_for_the_dtype_is_named(tmp_path: Path) -> None:
    Variant("Llama").saved(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][3] = 1e6
    save_file(tensors, path)
    with pytest.raises(ValueError, match="tensor model.norm.weight: .* not finite in torch.float16"):
        load(tmp_path, device="cpu", dtype=torch.float16, say=lambda line: None)


def test_of_one_file_and_an_index_none_is_taken(clean: tuple[Path, Tensor], tmp_path: Path) -> None:
    shutil.copytree(clean[0], tmp_path / "both")
    Variant("Llama").saved(tmp_path / "one")
    shutil.copy(tmp_path / "one" / "model.safetensors", tmp_path / "both")
    with pytest.raises(ValueError, match=f"has both model.safetensors and {INDEX}"):
        load(tmp_path / "both", say=lambda line: None)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    Variant("Llama").saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="has neither .* pickled weights are not read"):
        load(tmp_path, say=lambda line: None)


def test_more_layers_experts_or_positions_than_there_are_numbers_for(tmp_path: Path) -> None:
    Variant("Mixtral", {"num_local_experts": 4}).saved(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    for name, message in (("num_hidden_layers", "num_hidden_layers=10"), ("num_local_experts", "experts.4.* missing"),
                          ("max_position_embeddings", "rotary angles would take")):
        path.write_text(json.dumps(values | {name: 10**9}))
        with pytest.raises(ValueError, match=message):
            load(tmp_path, say=lambda line: None)
