"""What is read of a checkpoint, in whatever format: its configuration, and tensors by name, one at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's shape, and the name of its type in the file."""

    shape: tuple[int, ...]
    dtype: str


class Checkpoint(Protocol):
    @property
    def path(self) -> Path:
        """The folder or file, which errors name."""
        ...

    @property
    def config(self) -> dict[str, Any]:
        """What config.json holds, or would."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """All tensors, by the names of their family."""
        ...

    def read(self, name: str) -> Tensor:
        """A tensor on the CPU, in a float dtype. It may lie in a mapped file: to be copied from, not written to."""
        ...
