"""A JSON-lines file with atomic appends: a row is in it entirely or not at all."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...kernels.atomic_file import atomic_write, clear_temporaries
from .records import Json


@dataclass(frozen=True)
class JsonLines:
    """The rows in `path`, which need not exist yet. One process writes at a time."""

    path: Path

    def rows(self) -> list[Json]:
        """All rows. ValueError names the file and the line of a row that is not a JSON object."""
        if not self.path.exists():
            return []
        found = []
        for number, line in enumerate(self.path.read_text().splitlines(), 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{self.path}:{number}: not a row ({error})") from None
            if not isinstance(row, dict):
                raise ValueError(f"{self.path}:{number}: not a row ({line[:40]})")
            found.append(row)
        return found

    def append(self, row: Json) -> None:
        """Append a row. ValueError if it holds a NaN or an infinity."""
        before = self.path.read_bytes() if self.path.exists() else b""
        clear_temporaries(self.path)
        atomic_write(self.path, before + _line(row))

    def replace(self, rows: Iterable[Json]) -> None:
        """Replace all rows. ValueError as in `append`."""
        clear_temporaries(self.path)
        atomic_write(self.path, b"".join(_line(row) for row in rows))


def _line(row: Json) -> bytes:
    return (json.dumps(row, sort_keys=True, allow_nan=False) + "\n").encode()
