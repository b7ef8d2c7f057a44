"""What is written is what the library and our own reader read."""

from pathlib import Path

import torch
from quicksilver.models.checkpoints.base import TensorInfo
from quicksilver.models.checkpoints.safetensors_header import tensors_in
from quicksilver.models.checkpoints.safetensors_writer import NAMES, shard_names, sharded, write
from safetensors import safe_open


def test_tensors_of_any_dtype_and_layout(tmp_path: Path) -> None:
    tensors = {"bfloat": torch.randn(3, 5).bfloat16(), "\u00e4": torch.randn(4, 6).T, "empty": torch.ones(0, 2),
               "one": torch.tensor(2.0, dtype=torch.float64), "half": torch.randn(7).half()}
    infos = {name: TensorInfo(tuple(tensor.shape), NAMES[tensor.dtype]) for name, tensor in tensors.items()}
    write(tmp_path / "x", infos, tensors.values())
    assert tensors_in(tmp_path / "x") == infos
    with safe_open(tmp_path / "x", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())


def test_where_it_is_cut() -> None:
    infos = {name: TensorInfo((size,), "F32") for name, size in (("a", 1), ("b", 2), ("c", 9), ("d", 1), ("e", 1))}
    assert sharded(infos, 12) == [["a", "b"], ["c"], ["d", "e"]]
    assert sharded(infos, 100) == [["a", "b", "c", "d", "e"]]
    assert list(shard_names(1)) == ["model.safetensors"]
    assert list(shard_names(2)) == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
