"""The step benchmark: python -m quicksilver.experiments experiment=step_bench [shapes=[llada_8b,...]]

One denoising step against one autoregressive step, at the shapes of published models, with random weights: milliseconds
from CUDA graph replay and launched from Python, and the roofline bound, with what it predicts of larger batches: the
tokens a step must commit not to lose. Every row is recorded as it comes; the same command resumes. Without a GPU it
computes the bounds and times nothing; with device=cpu it takes the steps, of the models that fit the memory.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import triton

from ...kernels.checks import check_instance, check_integer, check_real
from ...kernels.dispatch import Implementation, using
from ...models import Head
from ..harness.devices import device_name
from ..harness.json_lines import JsonLines
from ..harness.locks import machine_alone
from ..harness.machine import this_machine
from ..harness.progress import Bar, bar, console
from ..harness.provenance import provenance, provenance_on
from ..harness.records import Json, describe
from ..harness.roofline import CARDS, H200, Card
from ..harness.worker import LATE_SECONDS, CallFailed, CutShort, Worker, running_environment
from .break_even import rates, section
from .page import DOES_NOT_FIT, NO_GPU, Line, write_report
from .point import ModelShape, StepPoint
from .timing import measured, profiled

_PROFILE_SHARE = 0.15  # of the time
_MEASURED = "measured"
_NOT_REACHED = "not measured: the time ran out"


@dataclass(frozen=True)
class StepBench:
    """Every model of `shapes` after each of `contexts` stored positions: the autoregressive step and blocks of
    `blocks`, with each head; and a block of `reference_block` once on the PyTorch reference (None: not). `kernels` is
    auto, reference, cpu or triton. `seconds` is the budget for all rows, split equally over models; on a GPU it
    includes profiles of the timed points, taken after all times. `card` names the processor whose floors are shown and
    that the roofline predicts for: H200, H100, A100, or measured, which is this machine's CPU, after ten seconds of
    measuring; None: measured if `device` is cpu, else H200."""

    shapes: Mapping[str, ModelShape]
    contexts: Sequence[int]
    blocks: Sequence[int]
    heads: Mapping[str, Head]
    reference_block: int | None
    device: str
    kernels: str
    dtype: str
    seconds: float
    card: str | None = None

    def __post_init__(self) -> None:
        for name, model in self.shapes.items():
            check_instance(f"shapes.{name}", model, ModelShape)
        if not self.shapes or not self.heads:
            raise ValueError(f"shapes={list(self.shapes)}, heads={list(self.heads)}: needs at least one of each")
        for name, values in (("contexts", self.contexts), ("blocks", self.blocks)):
            for value in values:
                check_integer(name, value)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={list(values)}: must be all different, at least one")
        if self.reference_block is not None:
            check_integer("reference_block", self.reference_block)
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device={self.device!r}: must be one of cpu, cuda")
        check_real("seconds", self.seconds, above=0)
        if self.card not in (*CARDS, _MEASURED, None):
            raise ValueError(f"card={self.card!r}: must be one of {', '.join((*CARDS, _MEASURED))}")

    def check(self) -> None:
        """ValueError for a point that cannot be timed."""
        list(self.points())
        if self._has_device():
            with using(Implementation.named(self.kernels)):
                pass  # ValueError if they cannot run

    def points(self) -> Iterator[StepPoint]:
        """By model; within a model the most important first, since the budget may run out."""
        longest = max(self.contexts) + max(*self.blocks, self.reference_block or 1, 2)
        main = Implementation.named(self.kernels)
        if main is None:
            main = Implementation.TRITON if self.device == "cuda" else Implementation.CPU
        order = sorted(self.blocks, key=lambda block: (abs(block - (self.reference_block or max(self.blocks))), block))
        for name, model in self.shapes.items():

            def point(context: int, block: int | None, head: str, kernels: Implementation, *, name: str = name,
                      model: ModelShape = model) -> StepPoint:
                return StepPoint(name, model, context, block, head, self.heads[head], kernels.value, self.dtype,
                                 longest)

            for context in self.contexts:
                for head in self.heads:
                    for block in (None, *order):
                        yield point(context, block, head, main)
                if context == self.contexts[0] and self.reference_block and main is Implementation.TRITON:
                    yield point(context, self.reference_block, next(iter(self.heads)), Implementation.REFERENCE)

    def run(self, folder: Path) -> int:
        """Time the missing rows, write the report to `folder`/steps, and print the table, also if interrupted. Returns
        the number of failed rows."""
        folder = folder / "steps"
        points, rows = list(self.points()), dict[StepPoint, Json]()
        if not self._has_device():
            console.print(NO_GPU, markup=False)
            return self._report(folder, points, rows, NO_GPU)
        file = JsonLines(folder / "rows.jsonl")
        try:
            self._measure(points, file, rows)
        finally:
            if len(rows) < len(points):
                console.print(f"{len(points) - len(rows)} of {len(points)} rows are missing; the same command goes on "
                              "from here", markup=False)
            num_failed = self._report(folder, points, rows, _NOT_REACHED)
        return num_failed

    def _report(self, folder: Path, points: Sequence[StepPoint], rows: Mapping[StepPoint, Json], state: str) -> int:
        card = self._card()
        lines = [_line(point, rows.get(point), state, card) for point in points]
        prediction = list(section(points, card))
        path = write_report(folder, lines, [row["provenance"] for row in rows.values()], rates(card), prediction)
        console.print(f"report: {path}", markup=False)
        return sum(line.failed for line in lines)

    def _card(self) -> Card:
        name = self.card or (_MEASURED if self.device == "cpu" else H200.name)
        if name != _MEASURED:
            return CARDS[name]
        with machine_alone():
            return this_machine(self.dtype)

    def _has_device(self) -> bool:
        return self.device == "cpu" or torch.cuda.is_available()

    def _measure(self, points: Sequence[StepPoint], file: JsonLines, rows: dict[StepPoint, Json]) -> None:
        """Fill `rows` with the file's rows for this code on this device, and with those timed now."""
        name = device_name(self.device)
        held = {row["key"]: row for row in file.rows() if not row["result"].keys() & {"failed", DOES_NOT_FIT}}
        rows |= {point: held[key] for point in points if (key := _key(point, name)) in held}
        with machine_alone(), Worker(running_environment(self.device)) as worker, bar("steps", len(points)) as shown:
            ends = time.monotonic() + self.seconds  # others may have had the machine first
            session = _Session(worker, self.device, file, rows, shown)
            times_end = ends - _PROFILE_SHARE * self.seconds if self.device == "cuda" else ends
            for place, model in enumerate(self.shapes):
                now = time.monotonic()
                share_ends = now + (times_end - now) / (len(self.shapes) - place)
                for point in points:
                    if point.name == model and point not in rows:
                        session.time(point, name, share_ends)
            # Reversed, so that the model whose weights the process still holds comes first.
            for point in reversed([point for point in points if self.device == "cuda" and point in rows]):
                session.profile(point, ends)


@dataclass(frozen=True)
class _Session:
    """Requests the missing parts of a row from the measuring process, within the budget, and records them."""

    worker: Worker
    device: str
    file: JsonLines
    rows: dict[StepPoint, Json]
    shown: Bar

    def time(self, point: StepPoint, name: str, ends: float) -> None:
        """Time a point on the device of this name."""
        result = self._ask(measured, point, ends)
        if result is None:
            return
        self._record(point, {"key": _key(point, name), "point": describe(point), "result": result,
                             "provenance": provenance_on(name) | {"dtype": point.dtype, "kernels": point.kernels}})

    def profile(self, point: StepPoint, ends: float) -> None:
        """Add the profile to the row of a point, if it has times and no profile yet."""
        row = self.rows[point]
        if row["result"].keys() & {"failed", DOES_NOT_FIT, "num_kernels", "no_profile"}:
            return
        found = self._ask(profiled, point, ends)
        if found is not None:
            if "failed" in found:  # the row's times remain valid
                found = {"no_profile": found["failed"]}
            self._record(point, row | {"result": row["result"] | found})

    def _ask(self, function: Callable[..., Json], point: StepPoint, ends: float) -> Json | None:
        """The process's result, or why it failed; None if the budget ended first."""
        left = ends - time.monotonic()
        if left <= 0:
            return None
        self.shown.update(len(self.rows), point.label)
        try:
            result = self.worker.ask(function, point, self.device, seconds=left + LATE_SECONDS)
        except CutShort as error:
            console.print(f"cut: {point.label}: {error}", markup=False)
            return None
        except CallFailed as error:
            console.print(f"failed: {point.label}: {error}", markup=False, style="red")
            result = {"failed": str(error)}
        if self.device == "cuda" and result.keys() & {"failed", "no_graph"}:
            self.worker.end()  # a fault or a broken capture may have corrupted the GPU's context
        return result

    def _record(self, point: StepPoint, row: Json) -> None:
        self.rows[point] = row
        self.file.append(row)


def _line(point: StepPoint, row: Json | None, state: str, card: Card) -> Line:
    result: Json = {"state": state} if row is None else row["result"]
    parameters = point.config.num_matrix_parameters(), point.config.num_active_matrix_parameters()
    touched = result.get("distinct_experts")
    return Line(point.name, parameters, point.context, point.block, point.head_name, point.kernels,
                floors=point.floors(sum(touched) / len(touched) if touched else None, card),
                expected_experts=point.expected_experts(), result=result)


def _key(point: StepPoint, device: str) -> str:
    """The key of a measurement: the point, the code, the device and the versions."""
    parts = [describe(point), provenance()["source_hash"], device, torch.__version__, triton.__version__]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
