"""From records to rows: one row a decoder setting, pooled over seeds, and the speed-up at equal quality."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .intervals import paired_difference, wilson

Json = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One decoder setting at one batch size. Shares are of items, speeds medians over seeds."""

    task: str
    batch_size: int
    family: str
    order: str
    steps: int | None
    sampler: str
    right: Sequence[bool]
    share: float
    interval: tuple[float, float]
    share_by_seed: Sequence[float]
    tokens_per_second: float
    speed_up: float
    speed_up_p20: float
    speed_up_p80: float
    first_step_seconds: float
    latency_p50: float
    latency_p95: float
    forwards_per_item: float  # the steps that an item's batch took: one forward serves all rows of a batch
    peak_memory_bytes: int
    kv_bytes: int
    text: Json

    @property
    def order_label(self) -> str:
        return self.order if self.sampler == "greedy" else f"{self.order}, {self.sampler}"

    @property
    def label(self) -> str:
        if self.steps is None:
            return self.order_label
        return f"{self.order_label}, {self.steps} step{'s' * (self.steps > 1)}"


def rows(records: Iterable[Json]) -> list[Row]:
    """A row for each setting, in the order in which the settings first occur; failed points are left out."""
    groups: dict[tuple, list[Json]] = {}
    for record in records:
        if "failed" not in record["result"]:
            point = record["point"]
            key = tuple(point[name] for name in ("name", "batch_size", "family", "order", "steps", "sampler"))
            groups.setdefault(key, []).append(record["result"])
    return [_row(key, results) for key, results in groups.items()]


def _row(key: tuple[str, int, str, str, int | None, str], results: Sequence[Json]) -> Row:
    task, batch_size, family, order, steps, sampler = key
    right = [mark == "1" for result in results for mark in result["right"]]
    accounts = [result["accounting"] for result in results]

    def median(name: str) -> float:
        return float(np.median([result[name] for result in results]))

    return Row(
        task=task, batch_size=batch_size, family=family, order=order, steps=steps, sampler=sampler, right=right,
        share=float(np.mean(right)), interval=wilson(sum(right), len(right)),
        share_by_seed=[result["num_right"] / result["num_items"] for result in results],
        tokens_per_second=median("tokens_per_second"), speed_up=median("speed_up"),
        speed_up_p20=median("speed_up_p20"), speed_up_p80=median("speed_up_p80"),
        first_step_seconds=median("first_step_seconds_p50"), latency_p50=median("latency_seconds_p50"),
        latency_p95=median("latency_seconds_p95"),
        forwards_per_item=sum(account["row_steps"] for account in accounts) / len(right),
        peak_memory_bytes=int(median("peak_memory_bytes")),
        kv_bytes=max(account["kv_store_bytes"] for account in accounts),
        text={name: float(np.mean([result["text"][name] for result in results])) for name in results[0]["text"]})


_LEAST_SHARE = 0.05


@dataclass(frozen=True)
class EqualQuality:
    """The fastest diffusion setting that is not worse than the reference by more than `tolerance` (a share). None where
    there is no such setting, and where the reference solves under 5 %: to be as good as that says nothing."""

    task: str
    batch_size: int
    reference: Row
    fastest: Row | None
    tolerance: float

    @property
    def reference_fails(self) -> bool:
        return self.reference.share < _LEAST_SHARE


def equal_quality(all_rows: Sequence[Row]) -> list[EqualQuality]:
    """For each task with one right answer and each batch size. The tolerance is one point, or the half-width of the
    paired difference's interval where the items are too few to see one point."""
    found = []
    for task, batch_size in dict.fromkeys((row.task, row.batch_size) for row in all_rows):
        here = [row for row in all_rows if (row.task, row.batch_size) == (task, batch_size)]
        reference = next((row for row in here if row.family == "autoregressive"), None)
        if reference is None or reference.text:
            continue
        fastest, widest = None, 0.01
        for row in here:
            if (row.family == "autoregressive" or reference.share < _LEAST_SHARE
                    or len(row.right) != len(reference.right)):
                continue
            difference, half_width = paired_difference(row.right, reference.right)
            tolerance = max(0.01, half_width)
            if difference >= -tolerance and (fastest is None or row.speed_up > fastest.speed_up):
                fastest, widest = row, tolerance
        found.append(EqualQuality(task, batch_size, reference, fastest, widest))
    return found


def sources(records: Iterable[Json]) -> list[str]:
    """The distinct machines and states of the code that records come from, each as a line."""
    lines = []
    for record in records:
        origin = record["provenance"]
        commit = origin["commit"][:10] + (" with local changes" if origin["dirty"] else "")
        machine = origin["machine"]
        versions = origin["versions"]
        lines.append(f"{machine['cpu']}, {machine['cores']} cores; torch {versions['torch']}; commit {commit}")
    return list(dict.fromkeys(lines))


def is_collapsed(text: Json) -> bool:
    """Whether free text repeats itself: under half of its samples are distinct."""
    return bool(text) and text["unique"] < 0.5
