"""Records: one JSON file per measured point, named by the hash of the point and written atomically.

A point with a record is not measured again. A file that does not parse, or whose name is not its point's hash, is
damaged: it is reported, never read as data.

Records outlive class names: a class that is renamed keeps its `kind`. A point class used by several studies has `kind`
as a field:

    class TokenChoice:
        kind: ClassVar[str] = "OwnChoice"
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from ...kernels.atomic_file import atomic_write, clear_temporaries
from .progress import console

Json = dict[str, Any]
ADDED_LATER = {"added_later": True}
"""Metadata of a field that was added to a point's class when records existed: a default value is left out of the
description, so that those records keep their names."""


def kind_of(cls: type) -> str:
    """The name of a class in records: its own `kind` (not an inherited one), else its class name."""
    return vars(cls).get("kind", cls.__name__)


def describe(value: object) -> Any:
    """A frozen dataclass, or a value inside one, as JSON values; a dataclass as its kind and fields. ValueError for
    other types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)
                  if not ("added_later" in field.metadata and getattr(value, field.name) == field.default)}
        return {"kind": kind_of(type(value)), **fields}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Real):  # of another library, as numpy: equal numbers have one key
        return int(value) if isinstance(value, Integral) else float(value)
    raise ValueError(f"{value!r}: a point holds dataclasses, enums, numbers, strings, lists and dicts only")


def key_of(point: object) -> str:
    """The key of a point: 16 hex digits of the SHA-256 of its description."""
    return _key(describe(point))


def _key(description: Any) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class RecordStore:
    """The records in one folder."""

    folder: Path

    def path(self, point: object) -> Path:
        return self.folder / f"{key_of(point)}.json"

    def read(self, point: object) -> Json | None:
        """The point's record, or None if there is none. ValueError names a damaged file."""
        path = self.path(point)
        return read_record(path) if path.exists() else None

    def completed(self, point: object) -> Json | None:
        """The point's record if it is whole and holds a result. A damaged file is reported on the console."""
        try:
            record = self.read(point)
        except ValueError as error:
            console.print(f"made again: {error}", markup=False, style="yellow")
            return None
        return None if record is None or "failed" in record["result"] else record

    def write(self, point: object, result: Json, provenance: Json) -> Json:
        """Write and return the point's record. FloatingPointError if the result holds a NaN or an infinity."""
        record = {"point": describe(point), "result": result, "provenance": provenance}
        _refuse_nan(record, self.path(point))
        clear_temporaries(self.path(point))
        atomic_write(self.path(point), (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())
        return record

    def all(self) -> Iterator[Json]:
        """All records of the folder. ValueError names a damaged one."""
        for path in sorted(self.folder.glob("*.json")):
            yield read_record(path)


def read_record(path: Path) -> Json:
    """The record in `path`. ValueError names the file if it is damaged."""
    try:
        record = json.loads(path.read_bytes())
        if not record.keys() >= {"point", "result", "provenance"}:
            raise ValueError("parts are missing")
        if _key(record["point"]) != path.stem:
            raise ValueError("its point has another hash than its name")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: a damaged record ({error})") from None
    return record


def _refuse_nan(value: Any, where: Path) -> None:
    if isinstance(value, dict):
        for item in value.values():
            _refuse_nan(item, where)
    elif isinstance(value, list):
        for item in value:
            _refuse_nan(item, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise FloatingPointError(f"{where}: a record may not hold {value}")
