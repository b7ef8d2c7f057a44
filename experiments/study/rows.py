"""Table rows from records: one per decoder setting, pooled over seeds, and the speed-up at equal quality."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..harness.records import Json
from .conditions import conditions_of, refuse_mixed
from .intervals import paired_difference, wilson


@dataclass(frozen=True)
class Row:
    """One decoder setting at one batch size. Speeds are medians over seeds. Quality does not depend on the batch size:
    it is that of the most items decoded at any, while `timed_items` were decoded at this one. `number` counts settings
    with the same name from 1; `reference` identifies the autoregressive decode that it was timed against."""

    task: str
    batch_size: int
    family: str
    order: str
    steps: int | None
    sampler: str
    number: int
    reference: str
    timed_items: int
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
        steps = "" if self.steps is None else f", {self.steps} step{'s' * (self.steps > 1)}"
        return numbered(self.order_label + steps, self.number)


def numbered(name: str, number: int) -> str:
    """The name of a setting, made unique by its number."""
    return name if number == 1 else f"{name} ({number})"


def without_seeds(point: Json) -> str:
    """A point without its seeds, as JSON."""
    models = {name: point[name] | {"seed": None} for name in ("model", "reference") if name in point}
    return json.dumps(point | models, sort_keys=True)


_FAMILIES = {"AutoregressiveNLL": "autoregressive", "MaskedDiffusion": "masked diffusion",
             "BlockDiffusion": "block diffusion"}


def family_of(point: Mapping) -> str:
    """The name of a training point's family."""
    kind: str = point["recipe"]["objective"]["kind"]
    return _FAMILIES.get(kind, kind)


_NAMES = ("name", "batch_size", "family", "order", "steps", "sampler")


def rows(records: Iterable[Json]) -> list[Row]:
    """One row per setting, sorted by task, batch size, family, sampler, order and steps. Records of one row differ only
    in the seed; failed points are left out. ValueError if conditions are mixed."""
    succeeded = [record for record in records if "failed" not in record["result"]]
    refuse_mixed(succeeded)
    quality = _most_items(succeeded)
    alike: dict[tuple, dict[str, list[Json]]] = {}
    for record in succeeded:
        point = record["point"]
        settings = alike.setdefault(tuple(point[name] for name in _NAMES), {})
        settings.setdefault(without_seeds(point), []).append(record)
    made = [_row(number, members, quality)
            for settings in alike.values() for number, (_, members) in enumerate(sorted(settings.items()), start=1)]
    return sorted(made, key=lambda row: (row.task, row.batch_size, row.family, row.sampler, row.order, row.steps or 0,
                                         row.number))


def _at_any_batch(point: Json) -> str:
    return json.dumps(point | {"batch_size": None, "num_items": None}, sort_keys=True)


def _most_items(records: Iterable[Json]) -> dict[str, Json]:
    """The result with most items of each setting and seed. Fewer items are the first of more (`Task.test_problems`)."""
    most: dict[str, Json] = {}
    for record in records:
        key, result = _at_any_batch(record["point"]), record["result"]
        if key not in most or most[key]["num_items"] < result["num_items"]:
            most[key] = result
    return most


def _row(number: int, records: Sequence[Json], quality: Mapping[str, Json]) -> Row:
    point = records[0]["point"]
    task, batch_size, family, order, steps, sampler = (point[name] for name in _NAMES)
    by_seed = {record["point"]["model"]["seed"]: record for record in records}
    results = [record["result"] for record in by_seed.values()]
    judged = {seed: quality[_at_any_batch(record["point"])] for seed, record in sorted(by_seed.items())}
    right_by_seed = {seed: [mark == "1" for mark in result["right"]] for seed, result in judged.items()}
    num_right, num_items = (sum(result[name] for result in judged.values()) for name in ("num_right", "num_items"))
    timed_items = sum(result["num_items"] for result in results)
    positions = sum(result["accounting"]["positions_computed"] for result in results)
    num_forwards = sum(sum(result["accounting"]["forwards"].values()) for result in results)
    num_batches = sum(math.ceil(result["num_items"] / batch_size) for result in results)

    def median(name: str) -> float:
        return float(np.median([result[name] for result in results]))

    return Row(
        task=task, batch_size=batch_size, family=family, order=order, steps=steps, sampler=sampler, number=number,
        reference=json.dumps([point["reference"] | {"seed": None}, point["reference_decoder"], point["num_items"]]),
        timed_items=timed_items, right_by_seed=right_by_seed, share=num_right / num_items,
        interval=wilson(num_right, num_items),
        tokens_per_second=median("tokens_per_second"), speed_up=median("speed_up"),
        speed_up_p20=median("speed_up_p20"), speed_up_p80=median("speed_up_p80"),
        first_step_seconds=median("first_step_seconds_p50"), latency_p50=median("latency_seconds_p50"),
        latency_p95=median("latency_seconds_p95"),
        forwards_per_item=num_forwards / num_batches,  # an item takes as many forwards as its batch
        positions_per_token=positions / max(1, sum(result["answer_tokens"] for result in results)),
        remasked_per_item=sum(result["accounting"].get("tokens_remasked", 0) for result in results) / timed_items,
        peak_memory_bytes=int(median("peak_memory_bytes")),
        kv_bytes=max(result["accounting"]["kv_store_bytes"] for result in results),
        text={name: float(np.mean([result["text"][name] for result in judged.values()]))
              for name in results[0]["text"]})


_LEAST_SHARE = 0.05
_ONE_POINT = 0.01


@dataclass(frozen=True)
class EqualQuality:
    """`fastest` is the fastest diffusion setting at most `tolerance` (a share) worse than the reference: None if there
    is none, or if the reference solves under 5 %, too little for a comparison. `highest` is the diffusion setting of
    best quality, `best` the fastest within one percentage point of it; both are None if none was measured."""

    task: str
    batch_size: int
    reference: Row
    fastest: Row | None
    highest: Row | None
    best: Row | None
    tolerance: float

    @property
    def reference_fails(self) -> bool:
        return self.reference.share < _LEAST_SHARE

    @property
    def best_is_better(self) -> bool:
        """Whether diffusion's best quality is above the reference's by more than the tolerance."""
        return self.best is not None and self.best.share > self.reference.share + self.tolerance


def equal_quality(all_rows: Sequence[Row]) -> list[EqualQuality]:
    """One for each task with one right answer, batch size and reference. The tolerance is one percentage point, or the
    half-width of the paired difference's interval if that is larger."""
    found = []
    for key in dict.fromkeys((row.task, row.batch_size, row.reference) for row in all_rows):
        here = [row for row in all_rows if (row.task, row.batch_size, row.reference) == key]
        reference = next((row for row in here if row.family == "autoregressive"), None)
        if reference is None or reference.text:
            continue
        of_diffusion = [row for row in here if row.family != "autoregressive"]
        qualified, tolerances = [], [_ONE_POINT]
        for row in of_diffusion if reference.share >= _LEAST_SHARE else ():
            difference, half_width = paired(row, reference)
            tolerances.append(max(_ONE_POINT, half_width))
            if difference >= -tolerances[-1]:
                qualified.append((row.speed_up, tolerances[-1], row))
        _, tolerance, fastest = max(qualified, key=lambda item: item[0], default=(0.0, max(tolerances), None))
        highest = max(of_diffusion, key=lambda row: (row.share, row.speed_up), default=None)
        best = None if highest is None else max(
            (row for row in of_diffusion if row.share >= highest.share - _ONE_POINT), key=lambda row: row.speed_up)
        found.append(EqualQuality(key[0], key[1], reference, fastest, highest, best, tolerance))
    return found


def paired(row: Row, reference: Row) -> tuple[float, float]:
    """Mean difference of two rows over the items that both decoded with the same seed, and the half-width of its
    interval. (-1, 0) if they have no seed in common. If a decode of one failed, that one has the first of the items."""
    pairs = [pair for seed in row.right_by_seed.keys() & reference.right_by_seed.keys()
             for pair in zip(row.right_by_seed[seed], reference.right_by_seed[seed], strict=False)]
    return paired_difference(*zip(*pairs, strict=True)) if pairs else (-1.0, 0.0)


def sources(records: Iterable[Json]) -> list[str]:
    """The distinct conditions, machines, PyTorch versions and commits of the records, one line each."""
    lines = []
    for record in records:
        origin, conditions = record["provenance"], conditions_of(record)
        machine, torch_version = origin["machine"], origin["versions"]["torch"]
        host = "" if conditions.device == machine["cpu"] else f"{machine['cpu']}, "
        lines.append(f"{conditions.label} of {host}{machine['cores']} cores; torch {torch_version}; "
                     f"commit {commit_of(record)}")
    return list(dict.fromkeys(lines))


def commit_of(record: Json) -> str:
    """The commit of a record, with the source hash if it had local changes or no checkout."""
    origin = record["provenance"]
    commit = origin["commit"][:10]
    if origin["dirty"] or commit == "none":
        commit += f" with local changes, source {origin['source_hash'][:8]}"
    return commit


def is_collapsed(text: Json) -> bool:
    """Whether free text has collapsed: under half of its samples are distinct."""
    return bool(text) and text["unique"] < 0.5
