"""The values in the header of a GGUF file: a type u32, then a number, a string, or of an array the elements' type u32,
their number u64, and the elements. They are checked when the header is read and made when asked for: a vocabulary takes
several times its size in the file."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from mmap import mmap
from pathlib import Path
from typing import Any

from .gguf_cursor import Cursor

_MOST_BYTES = 2**30  # of a string; what llama.cpp takes


class ValueType(IntEnum):
    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_LAYOUTS = {ValueType.UINT8: "<B", ValueType.INT8: "<b", ValueType.UINT16: "<H", ValueType.INT16: "<h",
            ValueType.UINT32: "<I", ValueType.INT32: "<i", ValueType.FLOAT32: "<f", ValueType.BOOL: "<B",
            ValueType.UINT64: "<Q", ValueType.INT64: "<q", ValueType.FLOAT64: "<d"}


@dataclass(frozen=True)
class Value:
    """A value where it lies; of an array, the elements' type and number."""

    type: ValueType
    start: int
    count: int | None = None

    @property
    def kind(self) -> str:
        return self.type.name if self.count is None else f"ARRAY of {self.type.name}"


def read_value(cursor: Cursor) -> Value:
    """The value that follows, checked and passed over."""
    kind = _type(cursor)
    if kind != ValueType.ARRAY:
        start = cursor.position
        _pass(cursor, kind)
        return Value(kind, start)
    kind = _type(cursor)
    if kind == ValueType.ARRAY:
        raise cursor.refused("an array of arrays: must be of numbers or strings")
    size = 8 if kind == ValueType.STRING else struct.calcsize(_LAYOUTS[kind])
    number, start = cursor.count("elements", size), cursor.position
    if kind in (ValueType.STRING, ValueType.BOOL):  # of the others any bytes will do
        for _ in range(number):
            _pass(cursor, kind)
    else:
        cursor.skip(number * size)
    return Value(kind, start, number)


def _type(cursor: Cursor) -> ValueType:
    number = cursor.number("<I")
    if number > max(ValueType):
        raise cursor.refused(f"value type {number}: must be at most {max(ValueType)}")
    return ValueType(number)


def _pass(cursor: Cursor, kind: ValueType) -> None:
    if kind == ValueType.STRING:
        cursor.pass_text("a string", _MOST_BYTES)
    else:
        _element(cursor, kind)


def _element(cursor: Cursor, kind: ValueType) -> Any:
    if kind == ValueType.STRING:
        return cursor.text("a string", _MOST_BYTES)
    number = cursor.number(_LAYOUTS[kind])
    if kind != ValueType.BOOL:
        return number
    if number > 1:
        raise cursor.refused(f"bool {number}: must be 0 or 1")
    return bool(number)


@dataclass(frozen=True)
class Values(Mapping[str, Any]):
    """A header's values by their keys, as numbers, bools, strings and lists of them. `found` has where they lie."""

    data: mmap
    path: Path
    found: Mapping[str, Value]

    def __getitem__(self, key: str) -> Any:
        value = self.found[key]
        cursor = Cursor(self.data, self.path, value.start)
        if value.count is None:
            return _element(cursor, value.type)
        return [_element(cursor, value.type) for _ in range(value.count)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)
