"""The types of a GGUF file's tensors: floats, and the quantised ones that the library `gguf` knows and unpacks."""

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
_VALUES_AT_ONCE = 2**20  # the library takes several times the memory of what it unpacks


def library() -> ModuleType:
    """The library `gguf`. ValueError where it is not installed."""
    try:
        import gguf
    except ImportError:
        raise ValueError("gguf, which unpacks GGUF files, is not installed: pip install 'quicksilver[gguf]'") from None
    return gguf


def tensor_type(number: int) -> Any:
    """A gguf.GGMLQuantizationType. ValueError where it is of no number that is known, or not unpacked."""
    try:
        found = library().GGMLQuantizationType(number)
    except ValueError:
        raise ValueError(f"type {number}: must be one that gguf knows") from None
    if not (found.name in _FLOATS or _is_unpacked(found)):
        raise ValueError(f"type {found.name}: gguf does not unpack it")
    return found


def block_size(kind: Any) -> tuple[int, int]:
    """The values of a block, and its bytes."""
    return library().GGML_QUANT_SIZES[kind]


@cache
def _is_unpacked(kind: Any) -> bool:
    try:
        _unpacked(np.zeros((1, block_size(kind)[1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _unpacked(blocks: NDArray[np.uint8], kind: Any) -> NDArray[np.float32]:
    from gguf.quants import dequantize

    with np.errstate(all="ignore"):  # a scale that is no finite number shows in the values
        return dequantize(blocks, kind)


def values_of(blocks: NDArray[np.uint8], kind: Any) -> Tensor:
    """The values of rows of whole blocks, bytes [..., bytes], as [..., values]: floats as they lie, others float32."""
    if kind.name in _FLOATS:
        return torch.from_numpy(blocks).view(_FLOATS[kind.name])
    size, num_bytes = block_size(kind)
    rows = blocks.reshape(-1, blocks.shape[-1])
    width = rows.shape[-1] // num_bytes * size
    values = torch.empty(len(rows), width)
    step = max(1, _VALUES_AT_ONCE // width)
    for start in range(0, len(rows), step):
        values[start : start + step] = torch.from_numpy(_unpacked(rows[start : start + step], kind))
    return values.view(*blocks.shape[:-1], width)
