"""From the records of parallel commits to rows: one row per task and number of steps, pooled over seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..harness.records import Json
from ..study.groups import groups_of
from ..study.intervals import paired_difference, wilson
from ..study.rows import numbered

_ONE_POINT = 0.01
_LEAST_SHARE = 0.05


@dataclass(frozen=True)
class JointRow:
    """One task at a number of steps per window. `bound` and `gap` are sums over a decode in nats, averaged over items;
    so are the gaps of the right and of the wrong items, None if there are none."""

    task: str
    steps: int
    right: Sequence[bool]
    share: float
    interval: tuple[float, float]
    tokens_per_commit: float
    bound: float
    gap: float
    right_gap: float | None
    wrong_gap: float | None

    @property
    def num_items(self) -> int:
        return len(self.right)


def joint_rows(records: Iterable[Json]) -> list[JointRow]:
    """A row per task and number of steps, sorted by them; failed points are left out."""
    return [_row(numbered(group.task, group.number), group.steps, group.results)
            for group in sorted(groups_of(records, "name"), key=lambda group: (group.task, group.number))]


def _row(task: str, steps: int, results: Sequence[Json]) -> JointRow:
    right = np.array([mark == "1" for result in results for mark in result["right"]])
    bound, product, joint = (np.concatenate([result[name] for result in results])
                             for name in ("bound", "product", "joint"))
    gap = product - joint

    def mean_where(is_counted: np.ndarray) -> float | None:
        return float(gap[is_counted].mean()) if is_counted.any() else None

    num_commits, num_tokens = (sum(result[name] for result in results) for name in ("num_commits", "num_tokens"))
    return JointRow(task, steps, right.tolist(), float(right.mean()), wilson(int(right.sum()), len(right)),
                    num_tokens / num_commits, float(bound.mean()), float(gap.mean()), mean_where(right),
                    mean_where(~right))


@dataclass(frozen=True)
class Break:
    """Where a task's quality breaks. most: the row of most steps. holds: the fewest steps such that it and all larger
    numbers are as good as `most`, within `tolerance` (a share: one point, or the half-width of the paired difference's
    interval where the items are too few to resolve one point). breaks: the next fewer steps, None if there are none.
    The task has failed if even the most steps solve under 5 %."""

    most: JointRow
    holds: JointRow
    breaks: JointRow | None
    tolerance: float

    @property
    def is_failed(self) -> bool:
        return self.most.share < _LEAST_SHARE


def breaks(rows: Sequence[JointRow]) -> list[Break]:
    """The break of each task, in the order of the rows."""
    found = []
    for task in dict.fromkeys(row.task for row in rows):
        falling = sorted((row for row in rows if row.task == task), key=lambda row: -row.steps)
        most, holds, broken, tolerance = falling[0], falling[0], None, _ONE_POINT
        for row in falling[1:]:
            difference, half_width = paired_difference(row.right, most.right)
            if difference < -max(_ONE_POINT, half_width):
                broken = row
                break
            holds, tolerance = row, max(_ONE_POINT, half_width)
        found.append(Break(most, holds, broken, tolerance))
    return found
