"""Which tile a program takes: that of this GPU's table, where there is one, else the one that ships.

A launcher that has a choice declares it: buckets by a size that the host knows, the tile that ships for each, and the
tiles that may be tried. A table, tiles/NVIDIA_H200.json say, is written by `experiment=kernel_tune` on that GPU and
checked in. It names at most one tile a bucket, so that no GPU compiles more programs for it; what it does not name
ships as before.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch

FOLDER = Path(__file__).parent / "tiles"
"""Where the tables lie."""
DEFAULTS = "defaults"
"""What a record says where no table is in force."""

_ENTRY = {"choice", "up_to", "tile"}

T = TypeVar("T")


@dataclass(frozen=True)
class Bucket(Generic[T]):
    """Sizes up to `up_to`: the tile that ships for them, and the tiles that a table may name."""

    up_to: float
    default: T
    candidates: tuple[T, ...]

    def entry(self, choice: str, tile: T) -> dict[str, Any]:
        """A tile of this bucket as a table holds it; `up_to` is None for infinity."""
        return {"choice": choice, "up_to": None if self.up_to == float("inf") else self.up_to,
                "tile": asdict(cast(Any, tile))}


@dataclass(frozen=True, eq=False)  # by identity: a lookup should not hash every candidate
class TileChoice(Generic[T]):
    """A choice among tiles, which are dataclasses of numbers; the buckets' sizes ascend up to infinity."""

    name: str
    buckets: tuple[Bucket[T], ...]

    def place(self, size: float) -> int:
        """The number of the bucket of a size."""
        return next(place for place, bucket in enumerate(self.buckets) if size <= bucket.up_to)

    def tile(self, size: float, device: torch.device) -> T:
        """The tile for a size on a device. ValueError where the device's table is damaged, or names what is no
        candidate."""
        place = self.place(size)
        observed, tried = _observed.get(), _tried.get()
        if observed is not None:
            observed.add((self, place))
        if tried is not None and tried[:2] == (self.name, place):
            return tried[2]
        gpu, default = gpu_name(device), self.buckets[place].default
        return default if gpu is None else _chosen(path_of(gpu), self).get(place, default)


_observed: ContextVar[set[tuple[TileChoice[Any], int]] | None] = ContextVar("observed", default=None)
_tried: ContextVar[tuple[str, int, Any] | None] = ContextVar("tried", default=None)


@contextmanager
def observing() -> Iterator[set[tuple[TileChoice[Any], int]]]:
    """Collect the choices that are made, each with the number of its bucket."""
    found = set[tuple[TileChoice[Any], int]]()
    token = _observed.set(found)
    try:
        yield found
    finally:
        _observed.reset(token)


@contextmanager
def trying(choice: TileChoice[T], place: int, tile: T) -> Iterator[None]:
    """Take this tile for a bucket of the choice, whatever the table says."""
    token = _tried.set((choice.name, place, tile))
    try:
        yield
    finally:
        _tried.reset(token)


def gpu_name(device: torch.device) -> str | None:
    """The GPU's name, None of what is none, or of one that is rehearsed."""
    return _named(device) if device.type == "cuda" and torch.cuda.is_available() else None


@cache
def _named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


@cache
def path_of(gpu: str) -> Path:
    """The file of a GPU's table, whether it exists or not."""
    return FOLDER / f"{re.sub('[^A-Za-z0-9]+', '_', gpu)}.json"


def in_force() -> str:
    """What a record says of this machine's tiles: the table's name and hash, or that those are taken that ship."""
    path = path_of(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    if path is None or not path.is_file():
        return DEFAULTS
    return f"{path.stem} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def read(path: Path) -> list[dict[str, Any]]:
    """A table's entries, one a bucket; none where there is no file. ValueError names a damaged one."""
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text())["tiles"]
        if not all(entry.keys() == _ENTRY for entry in entries):
            raise KeyError(f"every entry must have {', '.join(sorted(_ENTRY))}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: a damaged table of tiles ({error})") from None
    return entries


@cache
def _chosen(path: Path, choice: TileChoice[T]) -> dict[int, T]:
    """By bucket, what a table names of a choice."""
    known = {json.dumps(bucket.entry(choice.name, tile), sort_keys=True): (place, tile)
             for place, bucket in enumerate(choice.buckets) for tile in bucket.candidates}
    named = [json.dumps(entry, sort_keys=True) for entry in read(path) if entry["choice"] == choice.name]
    for entry in named:
        if entry not in known:
            raise ValueError(f"{path}: {entry} is no candidate of {choice.name}; write the table anew with "
                             "experiment=kernel_tune")
    return dict(known[entry] for entry in named)


def forget() -> None:
    """Read tables anew: for a process that has written one."""
    path_of.cache_clear()
    _chosen.cache_clear()
