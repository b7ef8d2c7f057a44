"""Two configurations of the kernels in turns:

    python -m quicksilver.experiments experiment=kernel_ab kernel=packed_linear experiment.b.kernels=reference

The sides, a and b, are two implementations, checkouts, Tritons or sets of tile tables. Both are verified on every
shape, timed in turns on inputs that overflow the cache, and verified again. What is quoted is the ratio b / a, the
median over several pairs of processes of the median of their paired rounds; "no difference" where its interval holds 1.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from rich.markup import escape
from rich.table import Table

from ...kernels.checks import check_integer, check_real
from ..harness.devices import device_name
from ..harness.json_lines import JsonLines
from ..harness.locks import machine_alone
from ..harness.paired import LEAST_ROUNDS, interleaved, median_ratio
from ..harness.progress import bar, console
from ..harness.provenance import provenance_on
from ..harness.records import Json
from ..harness.worker import ENOUGH_SECONDS, CallFailed, Worker, running_environment
from . import host_timing
from .axis import along_axis
from .experiment import KernelCases, items_of
from .sides import Side, changed, prepare, sample
from .stages import Item

ROWS = "ab.jsonl"


@dataclass(frozen=True)
class KernelComparison:
    """The experiment: samples of both sides in `rounds` turns, until `seconds` after its start. Each of `processes`
    pairs of processes takes its part of the rounds and counts once: where memory happens to lie favours one side for as
    long as its process lives, so that rounds alone made the same code differ from itself. A shape that takes longer
    than `shape_seconds` has fewer rounds. With `axis`, a field of the cases, every shape that has it is taken at each
    of `values` instead."""

    kernels: dict[str, KernelCases]
    a: Side
    b: Side
    rounds: int
    processes: int
    seconds: float
    shape_seconds: float
    axis: str | None = None
    values: list[int] = field(default_factory=list)

    def check(self) -> None:
        """ValueError for a side that cannot be run, or an axis that no case has."""
        self.a.check("a")
        self.b.check("b")
        check_integer("processes", self.processes, at_least=LEAST_ROUNDS)
        check_integer("rounds", self.rounds, at_least=2 * self.processes)
        check_real("seconds", self.seconds, at_least=0)
        check_real("shape_seconds", self.shape_seconds, at_least=0)
        self.items()

    def items(self) -> list[Item]:
        """On a GPU the shapes of the kernels that are for one, in each type; else all in float32."""
        has_gpu = torch.cuda.is_available()
        found = items_of({name: kernel for name, kernel in self.kernels.items() if kernel.dtypes or not has_gpu})
        if not has_gpu:
            found = list({(item.kernel, item.shape): replace(item, dtype=host_timing.DTYPE) for item in found}.values())
        return found if self.axis is None else along_axis(found, self.axis, self.values)

    def run(self, folder: Path) -> int:
        """Compare, a row of `folder`/kernels a shape, and print them. Returns the number of shapes that failed."""
        file, items, rows = JsonLines(folder / "kernels" / ROWS), self.items(), list[Json]()
        ends = time.monotonic() + self.seconds
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with machine_alone(), bar("compare", len(items)) as progress:
            for count, item in enumerate(items):
                if time.monotonic() >= ends:
                    console.print(f"{self.seconds:.0f} s ended {len(items) - count} shapes early", markup=False)
                    break
                progress.update(count, f"{item.kernel} {item.shape}")
                row = item.row | {"a": asdict(self.a), "b": asdict(self.b)}
                rows.append(row | self._compared(item, device) | {"provenance": provenance_on(device_name(device))})
                file.append(rows[-1])
        console.print(comparison_table(rows))
        return sum("failed" in row for row in rows)

    def _compared(self, item: Item, device: str) -> Json:
        """Both sides' samples and their ratio on one case, or why there are none."""
        samples, about = list[list[list[float]]](), Json()
        for number in range(self.processes):
            share = self.rounds * (number + 1) // self.processes - self.rounds * number // self.processes
            try:
                about, of_both = self._sampled(item, device, share)
            except CallFailed as error:
                return {"failed": str(error)}
            if "failed" in about or "skipped" in about:
                return about
            samples.append(of_both)
        found = median_ratio([median(one / other for one, other in zip(b, a, strict=True)) for a, b in samples])
        return about | {"samples_us": samples, "ratio": [found.median, found.low, found.high]}

    def _sampled(self, item: Item, device: str, num_rounds: int) -> tuple[Json, list[list[float]]]:
        """So many samples of each, in processes of their own."""
        groups = [[self.a, self.b]] if self.a.process == self.b.process else [[self.a], [self.b]]
        with ExitStack() as stack:
            workers = [stack.enter_context(_worker(sides[0], device, stack)) for sides in groups]
            states = [worker.ask(prepare, sides, item.case, item.dtype, device, seconds=ENOUGH_SECONDS)
                      for worker, sides in zip(workers, groups, strict=True)]
            about: Json = {"gates": [gate for state in states for gate in state.get("gates", ())],
                     "kernels_hashes": [state.get("kernels_hash") for state in states],
                     "hardware": states[0].get("hardware"), "num_input_sets": states[0].get("num_input_sets")}
            for state in states:
                if reasons := {name: state[name] for name in ("failed", "skipped") if name in state}:
                    return about | reasons, [[], []]
            samplers: Sequence[Callable[[], float]] = [
                partial(worker.ask, sample, number, seconds=ENOUGH_SECONDS)
                for worker, sides in zip(workers, groups, strict=True) for number in range(len(sides))]
            samples = interleaved(samplers, num_rounds, self.shape_seconds / self.processes)
            others = [name for worker in workers for name in worker.ask(changed, item.dtype, seconds=ENOUGH_SECONDS)]
            if others:
                about["failed"] = f"another result after timing: kernels={', '.join(others)}"
            return about, samples


def _worker(side: Side, device: str, stack: ExitStack) -> Worker:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quicksilver-side-")))
    path = [*side.path(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return Worker(running_environment(device) | ({"PYTHONPATH": os.pathsep.join(path)} if path else {}))


def comparison_table(rows: Sequence[Json]) -> Table:
    """The rows for a terminal."""
    shown = Table("kernel", "shape", title="b / a, paired rounds in turns", title_justify="left", box=None,
                  header_style="bold")
    for name in ("a us", "b us", "b / a", "95 %"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("")
    for row in rows:
        shape = escape(f"{row['shape']}, {row['dtype']}")
        if "ratio" not in row:
            shown.add_row(row["kernel"], shape, "-", "-", "-", "-", escape(row.get("failed") or row["skipped"]))
            continue
        ratio, low, high = row["ratio"]
        medians = (median(time for pair in row["samples_us"] for time in pair[side]) for side in (0, 1))
        shown.add_row(row["kernel"], shape, *(f"{value:.4g}" for value in medians), f"{ratio:.3f}",
                      f"{low:.3f} to {high:.3f}", "no difference" if low <= 1 <= high else
                      f"{'b' if high < 1 else 'a'} is faster")
    return shown
