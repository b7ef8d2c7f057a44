"""A folder as transformers writes it: config.json, and safetensors in one file or in the shards of an index."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .base import TensorInfo

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class SafetensorsFolder:
    """Nothing outside the folder is read, and of its files none that the index does not name."""

    path: Path
    config: dict[str, Any]
    files: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def opened(cls, path: Path) -> "SafetensorsFolder":
        """The folder with every tensor's file open."""
        files = _files(path)
        slices = {name: file.get_slice(name) for name, file in files.items()}
        tensors = {name: TensorInfo(tuple(found.get_shape()), found.get_dtype()) for name, found in slices.items()}
        return cls(path, read_json(path / "config.json"), files, tensors)

    def read(self, name: str) -> Tensor:
        dtype = self.tensors[name].dtype
        if dtype not in _FLOATS:
            raise ValueError(f"{self.path}: tensor {name} of type {dtype}: must be one of {', '.join(_FLOATS)}")
        return self.files[name].get_tensor(name)


def _files(folder: Path) -> dict[str, Any]:
    """Each tensor's file, open."""
    if (folder / _SINGLE).exists():
        file = _opened(folder / _SINGLE)
        return dict.fromkeys(file.keys(), file)
    if not (folder / _INDEX).exists():
        raise ValueError(f"{folder}: has neither {_SINGLE} nor {_INDEX}; pickled weights are not read")
    shards = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{folder / _INDEX}: weight_map={shards!r}: must be a table from tensors to files")
    files = {shard: _opened(_shard(folder, shard)) for shard in sorted(set(map(str, shards.values())))}
    for name, shard in shards.items():
        if name not in files[shard].keys():  # noqa: SIM118
            raise ValueError(f"{folder / shard}: has no {name}, which {_INDEX} says is there")
    return {name: files[shard] for name, shard in shards.items()}


def _shard(folder: Path, name: str) -> Path:
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise ValueError(f"{folder / _INDEX}: shard {name!r}: must be a .safetensors file of this folder")
    return folder / name


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt").__enter__()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's table. ValueError names a file that is missing, damaged or holds something else."""
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must hold a table, not {type(values).__name__}")
    return values
