"""From the records of caches to rows: one row per cache and number of steps, pooled over seeds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..harness.records import Json
from ..study.groups import groups_of
from ..study.rows import numbered

EXACT_NATS = 1e-6
"""A mean KL up to this is float32 rounding."""


@dataclass(frozen=True)
class StepRow:
    """One step of a decode, number `index` of its window: masked positions over all items, and there the last layer's
    mean KL in nats and share of argmax flips."""

    window: int
    index: int
    num_eligible: int
    kl: float
    flips: float


@dataclass(frozen=True)
class CacheRow:
    """One cache on a task at a number of steps per window. Means and flips are over all masked positions of all steps,
    by layer from the first on. positions: positions computed, as a share of a full recompute's. edits: positions where
    the exact edit differs, per committed token (a swap counts twice). tokens: share of committed tokens that differ
    from the exact proposal. answers: share of items whose answer differs."""

    task: str
    cache: str
    steps: int
    num_items: int
    curve: Sequence[StepRow]
    kl: Sequence[float]
    flips: Sequence[float]
    relative_error: Sequence[float]
    positions: float
    edits: float
    tokens: float
    answers: float
    right: float
    exact_right: float

    @property
    def is_exact(self) -> bool:
        return self.kl[-1] <= EXACT_NATS and not any((self.flips[-1], self.edits, self.tokens, self.answers))


_ORDER = ("recompute", "append", "block_causal", "block_causal_apart", "prefix", "dual", "vicinity", "delayed")


def cache_rows(records: Iterable[Json]) -> list[CacheRow]:
    """A row per task, cache and number of steps; failed points are left out."""
    rank = {name: place for place, name in enumerate(_ORDER)}
    groups = sorted(groups_of(records, "cache"), key=lambda group: (group.task, rank.get(group.name, len(rank))))
    return [_row(group.task, numbered(group.name, group.number), group.steps, group.results) for group in groups]


def _row(task: str, cache: str, steps: int, results: Sequence[Json]) -> CacheRow:
    by_step: dict[tuple[int, int], list[Json]] = {}
    for entry in (entry for result in results for entry in result["steps"]):
        by_step.setdefault((entry["window"], entry["index"]), []).append(entry)
    every = [entry for entries in by_step.values() for entry in entries]
    num_committed = max(_sum(every, "num_committed"), 1)

    def of_items(name: str) -> float:
        return float(np.mean([mark == "1" for result in results for mark in result[name]]))

    return CacheRow(
        task=task, cache=cache, steps=steps, num_items=sum(result["num_items"] for result in results),
        curve=[StepRow(window, index, num_eligible, _means(entries, "kl")[-1], _means(entries, "flips")[-1])
               for (window, index), entries in sorted(by_step.items())
               if (num_eligible := _sum(entries, "num_eligible"))],
        kl=_means(every, "kl"), flips=_means(every, "flips"), relative_error=_means(every, "relative_error"),
        positions=_sum(every, "positions_computed") / _sum(every, "positions_whole"),
        edits=_sum(every, "num_edited_otherwise") / num_committed,
        tokens=_sum(every, "num_tokens_differ") / num_committed, answers=of_items("differs"),
        right=of_items("right"), exact_right=of_items("exact_right"))


def _sum(entries: Iterable[Json], name: str) -> int:
    return sum(entry[name] for entry in entries)


def _means(entries: Sequence[Json], name: str) -> list[float]:
    """Means by layer over masked positions."""
    return (np.sum([entry[name] for entry in entries], axis=0) / max(_sum(entries, "num_eligible"), 1)).tolist()


def at_most_steps(rows: Sequence[CacheRow]) -> list[CacheRow]:
    """The rows of each task at its largest number of steps."""
    most: Mapping[str, int] = {task: max(row.steps for row in rows if row.task == task)
                               for task in dict.fromkeys(row.task for row in rows)}
    return [row for row in rows if row.steps == most[row.task]]
