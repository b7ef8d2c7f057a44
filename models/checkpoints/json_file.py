"""JSON as configurations, indices and headers hold it, read strictly: a key that comes twice, or a number that is not
finite, is read differently by different libraries."""

import json
import math
from pathlib import Path
from typing import Any

from ...kernels.checks import shown

MOST_BYTES = 100_000_000  # as safetensors allows a header


def parse_table(text: bytes, origin: str) -> dict[str, Any]:
    """The table that the text is. ValueError names `origin`, and the key that comes twice or is not finite."""
    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise _Refused(f"{origin}: {shown(key)} comes twice")
            if isinstance(value, float) and not math.isfinite(value):
                raise _Refused(f"{origin}: {shown(key)}={value}: must be finite")
            found[key] = value
        return found

    try:
        values = json.loads(text.decode("utf-8"), object_pairs_hook=table)
    except _Refused:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{origin}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{origin}: must hold a table, not {type(values).__name__}")
    return values


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's table. ValueError names a file that is missing, damaged or holds something else."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"{path}: {size:,} bytes: at most {MOST_BYTES:,} are read of a JSON file")
        return parse_table(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


class _Refused(ValueError):
    """JSON that is well formed, and refused with a line of its own."""
