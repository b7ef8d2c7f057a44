"""From records to rows: one row a decoder setting, pooled over seeds, and the speed-up at equal quality."""

from collections.abc import Iterable, Mapping, Sequence
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
    right_by_seed: Mapping[int, Sequence[bool]]
    share: float
    interval: tuple[float, float]
    tokens_per_second: float
    speed_up: float
    speed_up_p20: float
    speed_up_p80: float
    first_step_seconds: float
    latency_p50: float
    latency_p95: float
    forwards_per_item: float
    positions_per_token: float
    remasked_per_item: float
    peak_memory_bytes: int
    kv_bytes: int
    text: Json

    @property
    def num_items(self) -> int:
        return sum(len(right) for right in self.right_by_seed.values())

    @property
    def share_by_seed(self) -> list[float]:
        return [float(np.mean(right)) for right in self.right_by_seed.values()]

    @property
    def order_label(self) -> str:
        return self.order if self.sampler == "greedy" else f"{self.order}, {self.sampler}"

    @property
    def label(self) -> str:
        if self.steps is None:
            return self.order_label
        return f"{self.order_label}, {self.steps} step{'s' * (self.steps > 1)}"


def rows(records: Iterable[Json]) -> list[Row]:
    """A row for each setting, sorted by task, batch size, family, order and steps; failed points are left out."""
    groups: dict[tuple, dict[int, Json]] = {}
    for record in records:
        if "failed" not in record["result"]:
            point = record["point"]
            key = tuple(point[name] for name in ("name", "batch_size", "family", "order", "steps", "sampler"))
            groups.setdefault(key, {})[point["model"]["seed"]] = record["result"]
    made = [_row(key, by_seed) for key, by_seed in groups.items()]
    return sorted(made, key=lambda row: (row.task, row.batch_size, row.family, row.sampler, row.order, row.steps or 0))


def _row(key: tuple[str, int, str, str, int | None, str], by_seed: Mapping[int, Json]) -> Row:
    task, batch_size, family, order, steps, sampler = key
    results = list(by_seed.values())
    right_by_seed = {seed: [mark == "1" for mark in result["right"]] for seed, result in by_seed.items()}
    num_right, num_items = (sum(result[name] for result in results) for name in ("num_right", "num_items"))
    # A batch's forward serves all of its rows: an item takes as many forwards as its batch did.
    positions = sum(result["accounting"]["positions_computed"] for result in results)
    num_forwards = batch_size * sum(sum(result["accounting"]["forwards"].values()) for result in results)

    def median(name: str) -> float:
        return float(np.median([result[name] for result in results]))

    return Row(
        task=task, batch_size=batch_size, family=family, order=order, steps=steps, sampler=sampler,
        right_by_seed=right_by_seed, share=num_right / num_items, interval=wilson(num_right, num_items),
        tokens_per_second=median("tokens_per_second"), speed_up=median("speed_up"),
        speed_up_p20=median("speed_up_p20"), speed_up_p80=median("speed_up_p80"),
        first_step_seconds=median("first_step_seconds_p50"), latency_p50=median("latency_seconds_p50"),
        latency_p95=median("latency_seconds_p95"),
        forwards_per_item=num_forwards / num_items,
        positions_per_token=positions / max(1, sum(result["answer_tokens"] for result in results)),
        remasked_per_item=sum(result["accounting"].get("tokens_remasked", 0) for result in results) / num_items,
        peak_memory_bytes=int(median("peak_memory_bytes")),
        kv_bytes=max(result["accounting"]["kv_store_bytes"] for result in results),
        text={name: float(np.mean([result["text"][name] for result in results])) for name in results[0]["text"]})


_LEAST_SHARE = 0.05
_ONE_POINT = 0.01


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
        qualified, tolerances = [], [_ONE_POINT]
        for row in here:
            if row.family == "autoregressive" or reference.share < _LEAST_SHARE:
                continue
            difference, half_width = _paired(row, reference)
            tolerances.append(max(_ONE_POINT, half_width))
            if difference >= -tolerances[-1]:
                qualified.append((row.speed_up, tolerances[-1], row))
        _, tolerance, fastest = max(qualified, key=lambda item: item[0], default=(0.0, max(tolerances), None))
        found.append(EqualQuality(task, batch_size, reference, fastest, tolerance))
    return found


def _paired(row: Row, reference: Row) -> tuple[float, float]:
    """Mean difference of two rows over the items that both decoded under the same seed, and its half-width."""
    pairs = [pair for seed in row.right_by_seed.keys() & reference.right_by_seed.keys()
             for pair in zip(row.right_by_seed[seed], reference.right_by_seed[seed], strict=True)]
    return paired_difference(*zip(*pairs, strict=True)) if pairs else (-1.0, 0.0)


def sources(records: Iterable[Json]) -> list[str]:
    """The distinct machines and states of the code that records come from, each as a line."""
    lines = []
    for record in records:
        origin = record["provenance"]
        commit = origin["commit"][:10]
        if origin["dirty"] or commit == "none":
            commit += f" with local changes, source {origin['source_hash'][:8]}"
        machine = origin["machine"]
        versions = origin["versions"]
        lines.append(f"{machine['cpu']}, {machine['cores']} cores; torch {versions['torch']}; commit {commit}")
    return list(dict.fromkeys(lines))


def is_collapsed(text: Json) -> bool:
    """Whether free text repeats itself: under half of its samples are distinct."""
    return bool(text) and text["unique"] < 0.5
