"""The header of a GGUF file (version 2 or 3, little-endian): its values, and where its tensors lie.

    "GGUF", version u32, number of tensors u64, number of values u64, values, tensors, padding, data

    value     key, value                                                                        (gguf_values.py)
    tensor    name, number of dimensions u32, dimensions u64 (the innermost first), type u32, offset in the data u64
    string    its length in bytes u64, UTF-8

The file is not trusted. Tensors must follow one another as llama.cpp demands (ggml/src/gguf.cpp), with zeros between
them, to the end of the file.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.checks import shown
from .gguf_cursor import Cursor
from .gguf_types import block_size, tensor_type
from .gguf_values import Value, Values, ValueType, read_value

_VERSIONS = 2, 3
_MOST_KEY, _MOST_NAME, _MOST_DIMENSIONS = 2**16 - 1, 63, 4
_SMALLEST_VALUE, _SMALLEST_TENSOR = 14, 33
_ALIGNMENT, _ALIGNED = "general.alignment", 32


@dataclass(frozen=True)
class StoredTensor:
    """`shape` has the innermost dimension last; `type` is a gguf.GGMLQuantizationType; the data are `num_bytes` from
    `start` in the file."""

    name: str
    shape: tuple[int, ...]
    type: Any
    start: int
    num_bytes: int


@dataclass(frozen=True)
class Header:
    values: Values
    tensors: Mapping[str, StoredTensor]


def read_header(data: mmap, path: Path) -> Header:
    """ValueError names the value or tensor that is damaged or lies about the file."""
    cursor = Cursor(data, path)
    if data[:4] != b"GGUF":
        raise ValueError(f"{path}: begins with {data[:4]!r}: must be a GGUF file, which begins with b'GGUF'")
    cursor.skip(4)
    version = cursor.number("<I")
    if version not in _VERSIONS:
        swapped = struct.unpack(">I", struct.pack("<I", version))[0] in _VERSIONS
        raise cursor.refused(f"{'big-endian' if swapped else f'version {version}'}: must be little-endian, of version "
                             f"{' or '.join(map(str, _VERSIONS))}")
    num_tensors = cursor.count("tensors", _SMALLEST_TENSOR)
    num_values = cursor.count("values", _SMALLEST_VALUE)
    found = {key: read_value(cursor) for key in _names(cursor, ("value", num_values), _MOST_KEY)}
    values = Values(data, path, found)
    tensors = {name: _tensor(cursor, name) for name in _names(cursor, ("tensor", num_tensors), _MOST_NAME)}
    return Header(values, _placed(cursor, tensors, _alignment(cursor, values)))


def _names(cursor: Cursor, things: tuple[str, int], at_most: int) -> Iterator[str]:
    """The names of so many things of a kind, each to be read before the next name."""
    kind, number = things
    seen: set[str] = set()
    for place in range(number):
        cursor.about = f"{kind} {place + 1} of {number}"
        name = cursor.text("name", at_most)
        if not name or not name.isprintable():
            raise cursor.refused(f"name {shown(name)}: must be of printable characters")
        cursor.about = f"{kind} {shown(name)}"
        if name in seen:
            raise cursor.refused("is there twice")
        seen.add(name)
        yield name


def _tensor(cursor: Cursor, name: str) -> StoredTensor:
    """The tensor with its offset as its start."""
    number = cursor.number("<I")
    if not 1 <= number <= _MOST_DIMENSIONS:
        raise cursor.refused(f"{number} dimensions: must be 1 to {_MOST_DIMENSIONS}")
    shape = tuple(cursor.number("<Q") for _ in range(number))[::-1]
    if not 0 < math.prod(shape) < 2**63:
        raise cursor.refused(f"shape {[*shape]}: must hold 1 to 2^63 - 1 values")
    try:
        kind = tensor_type(cursor.number("<I"))
    except ValueError as error:
        raise cursor.refused(str(error)) from None
    values, num_bytes = block_size(kind)
    if shape[-1] % values:
        raise cursor.refused(f"rows of {shape[-1]} in {kind.name}: must be a multiple of its blocks of {values}")
    return StoredTensor(name, shape, kind, cursor.number("<Q"), math.prod(shape) // values * num_bytes)


def _alignment(cursor: Cursor, values: Values) -> int:
    cursor.about = f"value {_ALIGNMENT!r}"
    if _ALIGNMENT not in values:
        return _ALIGNED
    if values.found[_ALIGNMENT] != Value(ValueType.UINT32, values.found[_ALIGNMENT].start):
        raise cursor.refused(f"of type {values.found[_ALIGNMENT].kind}: must be UINT32")
    alignment = values[_ALIGNMENT]
    if alignment < 8 or alignment & (alignment - 1):
        raise cursor.refused(f"{alignment}: must be a power of 2 and at least 8")
    return alignment


def _placed(cursor: Cursor, tensors: Mapping[str, StoredTensor], alignment: int) -> dict[str, StoredTensor]:
    """The tensors where they lie in the file, in which they are all that follows the header."""
    size, end = len(cursor.data), cursor.position
    first = start = _padded(end, alignment)
    placed = {}
    for name, tensor in tensors.items():
        cursor.about = f"tensor {shown(name)}"
        if tensor.start != start - first:
            raise cursor.refused(f"offset {tensor.start}: must be {start - first}, after the tensor before it")
        if start + tensor.num_bytes > size:
            raise cursor.refused(f"its {tensor.num_bytes} bytes from byte {start} on reach past the end of the file")
        _check_padding(cursor, end, start)
        end = start + tensor.num_bytes
        placed[name] = replace(tensor, start=start)
        start = _padded(end, alignment)
    if size not in (end, start):
        raise cursor.refused(f"its data end at byte {end}, and {size - end} bytes follow: must be none")
    _check_padding(cursor, end, size)
    return placed


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _check_padding(cursor: Cursor, start: int, end: int) -> None:
    """Weights between two tensors show that one is of another size than the header says."""
    if cursor.data[start:end].strip(b"\0"):
        raise cursor.refused(f"bytes {start} to {end - 1} beside it are padding: must be 0")



def blocks_of(data: mmap, tensor: StoredTensor) -> NDArray[np.uint8]:
    """The tensor's rows as they are packed, uint8 [..., bytes], in the mapped file."""
    flat = np.frombuffer(data, np.uint8, tensor.num_bytes, tensor.start)
    return flat.reshape(*tensor.shape[:-1], tensor.num_bytes // math.prod(tensor.shape[:-1]))
