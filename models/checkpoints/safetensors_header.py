"""The header of a safetensors file, checked before the library reads it.

The file is the header's length (8 bytes, little-endian), the header (JSON: by tensor its dtype, shape and where in the
data it begins and ends) and the data, without holes. The library takes the last of a name that comes twice, names that
are empty, and keys that it does not know.
"""

import math
from pathlib import Path
from typing import Any

from ...kernels.checks import shown
from .base import TensorInfo
from .json_file import MOST_BYTES, parse_table

_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4,
          "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}
_LENGTH_BYTES = 8
_MOST_DIMENSIONS = 64  # of a tensor in PyTorch


def tensors_in(path: Path) -> dict[str, TensorInfo]:
    """The file's tensors. ValueError names the tensor whose entry is not as the format has it, or says what else is
    wrong. Takes memory for the header alone, and none for what the header claims."""
    text, data_bytes = _header(path)
    entries = parse_table(text, f"{path}: header")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{path}: __metadata__={shown(metadata)}: must be a table of strings")
    found = {name: _entry(path, name, entry) for name, entry in entries.items()}
    _check_places(path, {name: place for name, (_, place) in found.items()}, data_bytes)
    return {name: info for name, (info, _) in found.items()}


def _header(path: Path) -> tuple[bytes, int]:
    """The header's text, and how many bytes of data follow."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if size < _LENGTH_BYTES:
                raise ValueError(f"{path}: {size} bytes: must begin with the {_LENGTH_BYTES} of its header's length")
            if length > min(size - _LENGTH_BYTES, MOST_BYTES):
                raise ValueError(f"{path}: header of {length:,} bytes: must be at most {MOST_BYTES:,}, and within the "
                                 f"file of {size:,}")
            return file.read(length), size - _LENGTH_BYTES - length
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


def _entry(path: Path, name: str, entry: Any) -> tuple[TensorInfo, tuple[int, int]]:
    """What the header says of a tensor, and where its bytes begin and end."""
    origin = f"{path}: tensor {name}"
    if not name or not name.isprintable():
        raise ValueError(f"{path}: tensor {shown(name)}: must have a name of printable characters")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{origin}: {shown(entry)}: must be a table of dtype, shape and data_offsets")
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise ValueError(f"{origin}: dtype={shown(dtype)}: must be one of {', '.join(_BYTES)}")
    if not _are_sizes(shape) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"{origin}: shape={shown(shape)}: must be a list of at most {_MOST_DIMENSIONS} sizes")
    if not _are_sizes(place) or len(place) != 2:
        raise ValueError(f"{origin}: data_offsets={shown(place)}: must be where it begins and ends")
    num_bytes = math.prod(shape) * _BYTES[dtype]
    if place[1] - place[0] != num_bytes:
        raise ValueError(f"{origin}: data_offsets={shown(place)}: must be {num_bytes:,} bytes, as its shape "
                         f"{shown(shape)} takes in {dtype}")
    return TensorInfo(tuple(shape), dtype), (place[0], place[1])


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_places(path: Path, places: dict[str, tuple[int, int]], data_bytes: int) -> None:
    """ValueError unless the tensors follow one another from the data's beginning to its end."""
    end = 0
    for name, (start, stop) in sorted(places.items(), key=lambda item: item[1]):
        if start != end:
            raise ValueError(f"{path}: tensor {name}: begins at byte {start:,} of the data: must be {end:,}, where the "
                             "one before ends")
        if stop > data_bytes:
            raise ValueError(f"{path}: tensor {name}: ends at byte {stop:,} of the data: must be at most "
                             f"{data_bytes:,}, where the file ends")
        end = stop
    if end != data_bytes:
        raise ValueError(f"{path}: {data_bytes - end:,} bytes after the last tensor: must be none")
