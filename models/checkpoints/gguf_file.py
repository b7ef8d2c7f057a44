"""A GGUF file as a checkpoint: mapped, and its tensors unpacked one at a time."""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .base import TensorInfo
from .gguf_architectures import architecture_of
from .gguf_config import config_of
from .gguf_header import Header, blocks_of, read_header
from .gguf_keys import Keys
from .gguf_names import Source, sources
from .gguf_types import block_size, library, values_of


@dataclass(frozen=True)
class GgufFile:
    """`config` is what config.json would hold; `sources` are the tensors' places by their published names."""

    path: Path
    config: dict[str, Any]
    header: Header
    sources: Mapping[str, Source]

    @classmethod
    def opened(cls, path: Path) -> "GgufFile":
        """The file with its header read. ValueError names the value or tensor that is missing, damaged, of a type that
        nothing unpacks or at odds with others, and says so where the library `gguf` is not installed."""
        library()
        header = read_header(_mapped(path), path)
        keys = Keys(header)
        architecture = architecture_of(keys)
        config = config_of(keys, architecture)
        return cls(path, config, header, sources(header, architecture, keys.heads()))

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        return {name: TensorInfo(source.shape, source.tensor.type.name) for name, source in self.sources.items()}

    def raw(self, name: str) -> tuple[str, NDArray[np.uint8]]:
        """A tensor's type, and its rows as they are packed, uint8 [..., bytes], in the family's order: in the mapped
        file, or copied where llama.cpp has another order."""
        source = self.sources[name]
        tensor = source.tensor
        blocks = blocks_of(self.header.values.data, tensor)
        if source.expert is not None:
            blocks = blocks[source.expert]
        if source.heads is None:
            return tensor.type.name, blocks
        if blocks.ndim == 1 and block_size(tensor.type)[0] > 1:
            raise ValueError(f"{self.path}: tensor {tensor.name} of type {tensor.type.name}: must be of floats")
        rows = blocks.reshape(source.shape[0], -1)  # of a bias, its elements
        return tensor.type.name, _published_order(rows, source.heads).reshape(blocks.shape)

    def read(self, name: str) -> Tensor:
        tensor = self.sources[name].tensor
        values = values_of(self.raw(name)[1], tensor.type)
        if not all(torch.isfinite(end) for end in torch.aminmax(values)):
            raise ValueError(f"{self.path}: tensor {tensor.name}: holds values that are not finite")
        return values


def _published_order(rows: NDArray[np.uint8], heads: int) -> NDArray[np.uint8]:
    """The rows of each head, [rows, bytes], with those that are neighbours in the file half a head apart."""
    return rows.reshape(heads, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def _mapped(path: Path) -> mmap.mmap:
    """The file, mapped; what is written to it is not written to the disk."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # which an empty file gives
        raise ValueError(f"{path}: not a whole GGUF file ({error})") from None
