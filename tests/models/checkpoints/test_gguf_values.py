import mmap
import struct
from pathlib import Path

import pytest
from quicksilver.models.checkpoints.gguf_cursor import Cursor
from quicksilver.models.checkpoints.gguf_values import Values, ValueType, read_value

NUMBERS = {ValueType.UINT8: ("B", 200), ValueType.INT8: ("b", -3), ValueType.UINT16: ("H", 60_000),
           ValueType.INT16: ("h", -3), ValueType.UINT32: ("I", 2**32 - 1), ValueType.INT32: ("i", -3),
           ValueType.FLOAT32: ("f", 0.25), ValueType.BOOL: ("?", True), ValueType.UINT64: ("Q", 2**64 - 1),
           ValueType.INT64: ("q", -3), ValueType.FLOAT64: ("d", 0.1)}


@pytest.mark.parametrize("kind", NUMBERS, ids=lambda kind: kind.name)
def test_every_number_is_read_alone_and_in_an_array(kind: ValueType, tmp_path: Path) -> None:
    layout, number = NUMBERS[kind]
    path = tmp_path / "values"
    array = struct.pack(f"<IIQ2{layout}", ValueType.ARRAY, kind, 2, number, number)
    path.write_bytes(struct.pack(f"<I{layout}", kind, number) + array)
    with path.open("rb") as file:
        cursor = Cursor(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), path)
    values = Values(cursor.data, path, {"one": read_value(cursor), "two": read_value(cursor)})
    assert dict(values) == {"one": number, "two": [number, number]}
    assert [value.kind for value in values.found.values()] == [kind.name, f"ARRAY of {kind.name}"]
    assert cursor.left == 0
