"""A folder as transformers writes it: config.json, and safetensors in one file or in the shards of an index."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...kernels.checks import shown
from .base import TensorInfo
from .json_file import read_json
from .published_folder import file_of, has_file
from .safetensors_header import tensors_in

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class SafetensorsFolder:
    """Nothing outside the folder is read (see `published_folder`), and of its weights none that the index does not
    name."""

    path: Path
    config: dict[str, Any]
    files: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def opened(cls, path: Path) -> "SafetensorsFolder":
        """The folder with every tensor's file open. ValueError names what is missing or damaged."""
        config = read_json(file_of(path, "config.json"))
        files: dict[str, Any] = {}
        tensors: dict[str, TensorInfo] = {}
        for file, names in _names_by_file(path).items():
            found, opened = tensors_in(file), _opened(file)
            for name in found if names is None else names:
                if name not in found:
                    raise ValueError(f"{file}: tensor {shown(name)} missing, which {INDEX} says is there")
                files[name], tensors[name] = opened, found[name]
        return cls(path, config, files, tensors)

    def read(self, name: str) -> Tensor:
        dtype = self.tensors[name].dtype
        if dtype not in _FLOATS:
            raise ValueError(f"{self.path}: tensor {name} of type {dtype}: must be one of {', '.join(_FLOATS)}")
        return self.files[name].get_tensor(name)


def _names_by_file(folder: Path) -> dict[Path, list[str] | None]:
    """The files of weights, and which of a file's tensors are meant, None for all."""
    has_single, has_index = has_file(folder, SINGLE), has_file(folder, INDEX)
    if has_single and has_index:  # loaders do not agree which counts
        raise ValueError(f"{folder}: has both {SINGLE} and {INDEX}: must have one of them")
    if has_single:
        return {file_of(folder, SINGLE): None}
    if not has_index:
        raise ValueError(f"{folder}: has neither {SINGLE} nor {INDEX}; pickled weights are not read")
    path = file_of(folder, INDEX)
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{path}: weight_map={shown(shards)}: must be a table from tensors to files")
    names_by_shard: dict[str, list[str]] = {}
    for name, shard in shards.items():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ValueError(f"{path}: tensor {shown(name)} in shard {shown(shard)}: must be a .safetensors file of "
                             "this folder")
        names_by_shard.setdefault(shard, []).append(name)
    return {file_of(folder, shard): names for shard, names in sorted(names_by_shard.items())}


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt").__enter__()
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from None
