"""Writing safetensors one tensor at a time, so that what is written need not lie in memory at once."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .base import TensorInfo

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def num_bytes_of(info: TensorInfo) -> int:
    return BYTES[info.dtype] * torch.Size(info.shape).numel()


def sharded(infos: Mapping[str, TensorInfo], most_bytes: int) -> list[list[str]]:
    """The names in their order, cut where a shard would grow above `most_bytes`; a larger tensor is one by itself."""
    shards: list[list[str]] = [[]]
    room = most_bytes
    for name, info in infos.items():
        size = num_bytes_of(info)
        if size > room and shards[-1]:
            shards.append([])
            room = most_bytes
        shards[-1].append(name)
        room -= size
    return shards


def write(path: Path, infos: Mapping[str, TensorInfo], tensors: Iterable[Tensor]) -> None:
    """A new file of tensors in the order, shapes and dtypes of `infos`, flushed to the disk."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, info in infos.items():
        start, end = end, end + num_bytes_of(info)
        header[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of the largest number
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def shard_names(number: int) -> Sequence[str]:
    """As transformers calls so many files."""
    if number == 1:
        return ["model.safetensors"]
    return [f"model-{place + 1:05d}-of-{number:05d}.safetensors" for place in range(number)]
