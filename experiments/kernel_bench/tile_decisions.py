"""What a tuning measures of each bucket, what it decides, and the table that it writes."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton

from ...kernels import tile_table
from ...kernels.atomic_file import atomic_write
from ..harness.json_lines import JsonLines
from ..harness.locks import machine_alone
from ..harness.paired import PairedRatio, paired_ratio
from ..harness.progress import bar, console
from ..harness.provenance import provenance_on
from ..harness.records import Json
from ..harness.worker import ENOUGH_SECONDS, CallFailed, Worker, running_environment
from .stages import kernels_hash
from .tile_timing import Trial, samples_of, verdict_of

_TIMING_SECONDS = 180.0  # of all tiles of a bucket on one case; more is taken to hang

Timer = Callable[[Trial, Sequence[Any], str, int], Json]


class BucketFailed(RuntimeError):
    """A bucket could not be decided; the message says why."""


class _TimeIsUp(Exception):
    """The run's seconds have ended."""


@dataclass(frozen=True)
class Decision:
    """The tile that a table is to name for the bucket of a trial: None where what ships stays. `words` say why."""

    trial: Trial
    tile: Any | None
    words: str

    @property
    def entry(self) -> Json | None:
        return None if self.tile is None else self.trial.bucket.entry(self.trial.choice.name, self.tile)


def paired_with_default(trial: Trial, rows: Sequence[Json]) -> dict[int, PairedRatio]:
    """By number, each of the rows' tiles that is right in all of them beside the tile that ships: the ratio of the
    geometric means over the rows' cases. BucketFailed where the tile that ships is not among them."""
    tiles = rows[0]["tiles"]
    right = [number for number in range(len(tiles)) if all(row["samples_us"][number] for row in rows)]
    default = tiles.index(asdict(trial.bucket.default))
    if default not in right:
        raise BucketFailed("the tile that ships is wrong: nothing to compare with")
    pooled = {number: [math.exp(sum(map(math.log, times)) / len(times)) for times in
                       zip(*(row["samples_us"][number] for row in rows), strict=True)] for number in right}
    return {number: paired_ratio(times, pooled[default]) for number, times in pooled.items()}


@dataclass(frozen=True)
class Tuner:
    """Tunes for the GPU of this name. `file` keeps every row, and those of the same code there are not measured
    again. `timer` runs in the GPU's process."""

    device: str
    gpu: str
    num_rounds: int
    file: JsonLines
    timer: Timer = samples_of

    def run(self, buckets: Sequence[Sequence[Trial]], ends: float) -> int:
        """Decide each bucket, and then write the table; it stays as it was if `ends`, of the monotonic clock, comes
        first. Returns the number of buckets that could not be decided."""
        decisions, num_failed = list[Decision](), 0
        with machine_alone(), Worker(running_environment(self.device)) as worker, bar("tune", len(buckets)) as progress:
            for count, trials in enumerate(buckets):
                name = f"{trials[0].choice.name} up to {trials[0].bucket.up_to:g}"
                progress.update(count, name)
                try:
                    decisions.append(self._decide(trials, worker, ends))
                except _TimeIsUp:
                    console.print(f"{len(buckets) - count} of {len(buckets)} buckets are left, and the table is as it "
                                  "was; the same command goes on from here", markup=False)
                    return num_failed
                except BucketFailed as error:
                    num_failed += 1
                    console.print(f"{name}: {error}; its entry stays", markup=False, style="red")
                else:
                    console.print(f"{name}: {decisions[-1].words}", markup=False)
        write_table(self.gpu, decisions)
        return num_failed

    def _decide(self, trials: Sequence[Trial], worker: Worker, ends: float) -> Decision:
        first = trials[0]
        default, candidates = first.bucket.default, first.bucket.candidates
        beside = paired_with_default(first, [self._row(trial, candidates, worker, ends) for trial in trials])
        best = candidates[min(beside, key=lambda number: beside[number].median)]
        tried = f"{len(beside)} of {len(candidates)} candidates right"
        if best == default:
            return Decision(first, None, f"what ships is the fastest; {tried}")
        found = paired_with_default(first, [self._row(trial, (default, best), worker, ends) for trial in trials]).get(1)
        if found is None:
            raise BucketFailed(f"{best} was right, and then wrong")
        words = f"{best} takes {found.median:.3f} ({found.low:.3f} to {found.high:.3f}) of the time; {tried}"
        is_faster = found.high < 1
        return Decision(first, best if is_faster else None, words if is_faster else f"what ships stays: {words}")

    def _row(self, trial: Trial, tiles: Sequence[Any], worker: Worker, ends: float) -> Json:
        """The row of these tiles on one case; BucketFailed where they could not be timed."""
        row: Json = {"choice": trial.choice.name, "up_to": trial.bucket.entry("", tiles[0])["up_to"],
                     "case": repr(trial.case), "dtype": trial.dtype, "tiles": [asdict(tile) for tile in tiles]}
        row["key"] = self._key(row)
        for known in self.file.rows():
            if known["key"] == row["key"] and "failed" not in known:
                return known
        if time.monotonic() >= ends:
            raise _TimeIsUp
        row |= self._measured(trial, tiles, worker) | {"provenance": provenance_on(self.gpu)}
        self.file.append(row)
        if "failed" in row:
            raise BucketFailed(f"{row['case']}: {row['failed']}")
        return row

    def _measured(self, trial: Trial, tiles: Sequence[Any], worker: Worker) -> Json:
        """Each tile's gate, and the samples of those that passed it."""
        gates = list[Json]()
        for tile in tiles:
            try:
                gates.append(worker.ask(verdict_of, trial, tile, self.device, seconds=ENOUGH_SECONDS))
            except CallFailed as error:
                worker.end()  # a fault may have corrupted the GPU's context
                gates.append({"passed": False, "failed": str(error)})
        passed = [tile for tile, gate in zip(tiles, gates, strict=True) if gate["passed"]]
        try:
            found = worker.ask(self.timer, trial, passed, self.device, self.num_rounds, seconds=_TIMING_SECONDS)
        except CallFailed as error:
            worker.end()
            return {"gates": gates, "failed": str(error)}
        samples = iter(found.pop("samples_us"))
        return found | {"gates": gates, "samples_us": [next(samples) if gate["passed"] else None for gate in gates]}

    def _key(self, row: Json) -> str:
        parts = [row, self.gpu, self.num_rounds, kernels_hash(), torch.__version__, triton.__version__]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def write_table(gpu: str, decisions: Sequence[Decision]) -> None:
    """Put the decisions in the GPU's table; what it names of other buckets stays. No table is made to name nothing."""
    path = tile_table.path_of(gpu)
    decided = [(entry["choice"], entry["up_to"]) for decision in decisions
               for entry in [decision.trial.bucket.entry(decision.trial.choice.name, decision.trial.bucket.default)]]
    kept = [entry for entry in tile_table.read(path) if (entry["choice"], entry["up_to"]) not in decided]
    entries = kept + [entry for decision in decisions if (entry := decision.entry) is not None]
    if not entries and not path.exists():
        console.print(f"{gpu}: what ships stays in all buckets; no table", markup=False)
        return
    entries.sort(key=lambda entry: (entry["choice"], entry["up_to"] or math.inf))
    table = {"gpu": gpu, "tiles": entries, "provenance": provenance_on(gpu)}
    atomic_write(path, (json.dumps(table, indent=1, sort_keys=True) + "\n").encode())
    tile_table.forget()
    console.print(f"table: {path}", markup=False)
