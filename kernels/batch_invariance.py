"""Bits that do not depend on the batch: whatever is computed of positions is computed of each by itself.

A library's product picks its algorithm by the number of rows (on a CPU F.linear of fewer than 8 rows differs in the
last bits from that of 8), a matrix-vector product by where the vector lies, and vectorised elementwise operations end
in a scalar tail, whose place follows the number of elements and of threads. Under `batch_invariant` every call has the
shape of one position, in memory of its own, whatever else is in the batch: the library has nothing left to choose by.
It costs as many calls as there are positions, each of which reads the weights anew.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_enabled: ContextVar[bool] = ContextVar("enabled", default=False)


@contextmanager
def batch_invariant(enabled: bool) -> Iterator[None]:
    """The setting `batch_invariant`: within, a position's bits depend on its own row alone, or what cannot promise that
    raises ValueError."""
    if not isinstance(enabled, bool):
        raise ValueError(f"batch_invariant={enabled!r}: must be true or false")
    token = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(token)


def is_batch_invariant() -> bool:
    return _enabled.get()


def refuse_if_batch_invariant(what: str, why: str) -> None:
    """ValueError under `batch_invariant`: `what` depends on the batch."""
    if _enabled.get():
        raise ValueError(f"batch_invariant=true with {what}: {why}")


def check_device(device: torch.device | str) -> None:
    """ValueError under `batch_invariant` on a GPU."""
    if torch.device(device).type != "cpu":
        refuse_if_batch_invariant(f"device={str(device)!r}", "projections and the separate head (cuBLAS picks by the "
                                  "number of rows), attention (its tiles follow the number of queries and of rows) and "
                                  "experts (theirs follow the mean load) depend on the batch there; must be cpu")


def by_position(function: Callable[..., Any], *tensors: Tensor | None) -> Any:
    """function(*tensors), a tensor or a tuple of them, where each tensor is [B, F, ...] or [1, F, ...] and a position's
    result depends on that position of them alone. Under `batch_invariant` called for each position by itself."""
    if not _enabled.get():
        return function(*tensors)
    given = [tensor for tensor in tensors if tensor is not None]
    num_rows, num_positions = max(len(tensor) for tensor in given), given[0].shape[1]
    if not num_rows * num_positions:
        return function(*tensors)
    check_device(given[0].device)
    found = [function(*(None if tensor is None else _one(tensor, row, position) for tensor in tensors))
             for row in range(num_rows) for position in range(num_positions)]
    if isinstance(found[0], Tensor):
        return torch.cat(found).view(num_rows, num_positions, *found[0].shape[2:])
    return tuple(torch.cat(parts).view(num_rows, num_positions, *parts[0].shape[2:])
                 for parts in zip(*found, strict=True))


def _one(tensor: Tensor, row: int, position: int) -> Tensor:
    row = min(row, len(tensor) - 1)
    return tensor[row : row + 1, position : position + 1].clone(memory_format=torch.contiguous_format)
