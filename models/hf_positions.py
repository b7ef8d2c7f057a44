"""Measures a module's learned position table: its number of positions and the row of position 0. Some modules count
from the padding id on and have fewer positions than their config says (RoBERTa: 512 of 514)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class PositionTable:
    """`first_id` is the row of position 0, `length` the number of rows from there on."""

    length: int
    first_id: int


def position_table(forward: Callable[[int], object]) -> PositionTable | None:
    """The shortest table of which `forward(num)`, on `num` tokens, reads one row per token; None if there is none."""
    near, far = 2, 5
    seen = []
    for num in (near, far):
        with _Lookups(num) as lookups:
            forward(num)
        seen.append(lookups.last_row)
    tables = [PositionTable(rows - last + far - 1, last - far + 1) for (table, rows), last in seen[1].items()
              if last - seen[0].get((table, rows), last) == far - near]
    return min(tables, key=lambda table: table.length, default=None)


@dataclass
class _Lookups(TorchDispatchMode):
    """Records the last row looked up in each table (by address and number of rows) by at least `num` indices."""

    num: int
    last_row: dict[tuple[int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        looked_up = _looked_up(func, args)
        if looked_up is not None:
            table, index = looked_up
            if index.numel() == index.shape[-1:].numel() >= self.num:
                key = (table.data_ptr(), len(table))
                self.last_row[key] = max(self.last_row.get(key, 0), int(index.max()))
        return func(*args, **(kwargs or {}))


def _looked_up(func: Any, args: Any) -> tuple[Tensor, Tensor] | None:
    """The table and the indices if the operation is a lookup."""
    if func is torch.ops.aten.embedding.default:
        return args[0], args[1]
    if func is torch.ops.aten.index_select.default and args[1] == 0:
        return args[0], args[2]
    if func is torch.ops.aten.index.Tensor and len(args[1]) == 1 and args[1][0].dtype == torch.int64:
        return args[0], args[1][0]
    return None
