"""The kernels' benchmark: python -m quicksilver.experiments experiment=kernel_bench [kernel=[rms_norm,...]]

Without a GPU it compiles every shipped configuration, checks their resources against hard limits and a baseline,
computes the roofline bound of every shape, verifies results in Triton's interpreter and, as compiled for sm_80 and
sm_90, in an emulator, and times what runs on the CPU. With a GPU it times kernels and peers there.
"""

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import triton

from ...kernels.case import Case
from ...kernels.checks import check_integer, check_real
from ..harness.experiment import check_folder
from ..harness.json_lines import JsonLines
from ..harness.progress import console
from ..harness.provenance import provenance_on
from ..harness.records import Json
from . import host_timing
from .axis import along_axis
from .baseline import HOW_TO_UPDATE, Baseline, minor_version
from .emulate import EMULATED
from .execution import ExecutionStage
from .limits import MAIN_TARGET, MAX_CONFIGURATIONS, TARGETS, missing_tensor_core, violations
from .page import HOST_TIMES, OUTCOME, write_report
from .rows import OURS
from .stages import Compiled, CompileStage, Item, TimingStage, floors, verdicts
from .verify import TOLERANCES

_CHECKOUT = Path(__file__).resolve().parents[2]
_NUM_SCHEDULES = 3  # of each program in a full run, in which the emulator takes every type and every Triton too


@dataclass(frozen=True)
class KernelCases:
    """A kernel's part of the benchmark: the input types it ships for (none: it is for CPUs alone), tiny cases to
    verify, and named shapes."""

    dtypes: list[str]
    tiny: list[Case]
    shapes: dict[str, Case]

    def __post_init__(self) -> None:
        for dtype in self.dtypes:
            if dtype not in TOLERANCES:
                raise ValueError(f"dtypes={self.dtypes!r}: must be of {', '.join(TOLERANCES)}")


def items_of(kernels: Mapping[str, KernelCases]) -> list[Item]:
    """The kernels' shapes in each type they ship for; of one that is for CPUs alone in float32."""
    return [Item(name, shape, dtype, case) for name, kernel in kernels.items()
            for dtype in kernel.dtypes or [host_timing.DTYPE] for shape, case in kernel.shapes.items()]


@dataclass(frozen=True)
class KernelBench:
    """The experiment. `other_tritons` are folders with another Triton each. `targets` are the architectures to compile
    for (none: no compilation). `baseline` is the folder of baseline files. On a GPU, timing stops `seconds` after the
    start of the run; without one, CPU times take `cpu_seconds`. With `axis`, a field of the cases such as rows or
    load.num_tokens, every shape that has it is taken at each of `values` instead."""

    kernels: dict[str, KernelCases]
    targets: list[str]
    other_tritons: list[str]
    full: bool
    update_baseline: bool
    baseline: str
    seconds: float
    num_processes: int
    cpu_seconds: float = 0.0
    axis: str | None = None
    values: list[int] = field(default_factory=list)

    def check(self) -> None:
        """ValueError for an unknown target, a missing folder, a duplicate Triton, or an axis that no case has or with
        targets."""
        check_real("cpu_seconds", self.cpu_seconds, at_least=0)
        self.items()
        if self.axis is not None and self.targets:
            raise ValueError(f"axis={self.axis!r} with targets={self.targets!r}: must be timed alone, with targets=[], "
                             "for the baseline is of the shipped shapes")
        check_integer("num_processes", self.num_processes)
        check_real("seconds", self.seconds, at_least=0)
        if self.targets and not self.update_baseline and not self.baseline_folder.is_dir():
            raise ValueError(f"baseline={self.baseline!r}: must be a folder, here or in {_CHECKOUT}; "
                             "experiment.update_baseline=true makes it")
        for target in self.targets:
            if target not in TARGETS:
                raise ValueError(f"targets={self.targets!r}: must be of {', '.join(TARGETS)}")
        found = [minor_version(triton.__version__), *map(_triton_in, self.other_tritons)]
        if len(set(found)) < len(found):
            raise ValueError(f"other_tritons={self.other_tritons!r}: must hold versions other than each other's and "
                             f"this environment's; found {', '.join(found)}")
        if self.update_baseline:
            check_folder("baseline", Path(self.baseline))

    @property
    def baseline_folder(self) -> Path:
        """The baseline's folder in the current one, else in the checkout of this file."""
        own = _CHECKOUT / self.baseline
        return own if own.is_dir() and not Path(self.baseline).exists() else Path(self.baseline)

    def items(self) -> list[Item]:
        """The shapes of all kernels, or those along the axis. ValueError if no case has the axis."""
        found = items_of(self.kernels)
        return found if self.axis is None else along_axis(found, self.axis, self.values)

    def run(self, folder: Path) -> int:
        """Run the stages and write the report to `folder`/kernels; a partial one if interrupted. Returns the number of
        failures."""
        stages = _Stages(self, folder / "kernels")
        try:
            stages.run()
        except KeyboardInterrupt:
            stages.cut = f"cut: {', '.join(stages.missing())} missing"
            console.print(stages.cut, markup=False)
            raise
        finally:
            failures = stages.report()
        return len(failures)

    def guard(self, compiled: Compiled) -> list[str]:
        """Violations of limits and regressions from the baseline; with `update_baseline` it is written instead of
        compared."""
        baseline = Baseline(self.baseline_folder)
        console.print(f"{compiled.num_configurations} configurations ship, at most {MAX_CONFIGURATIONS} may",
                      markup=False)
        found = list(compiled.failures)
        if compiled.num_configurations > MAX_CONFIGURATIONS:
            found.append(f"{compiled.num_configurations} configurations, more than {MAX_CONFIGURATIONS}: "
                         f"{_shares(compiled.records)}")
        found += [f"{record['kernel']}, Triton {minor_version(record['triton'])}, {record['target']}: "
                  f"{record['label']} {what}" for record in compiled.records for what in violations(record)]
        for kernel, version in compiled.existing:
            records = [record for record in compiled.records
                       if (record["kernel"], record["triton"]) == (kernel, version)]
            found += [f"{kernel}, Triton {minor_version(version)}: {what}" for what in missing_tensor_core(records)]
        if self.update_baseline:
            for path in baseline.update(compiled.records, compiled.existing):
                console.print(f"baseline: {path}", markup=False)
            return found
        worse = baseline.regressions(compiled.records, compiled.existing, compiled.guarded)
        return found + ([*worse, HOW_TO_UPDATE] if worse else [])


@dataclass
class _Stages:
    """A run of the benchmark: its stages in sequence, and their results so far."""

    bench: KernelBench
    folder: Path
    began: float = field(default_factory=time.monotonic)
    cases: list[Json] = field(default_factory=list)
    compiled: Compiled = field(default_factory=Compiled)
    judged: list[Json] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    cut: str | None = None

    def __post_init__(self) -> None:
        kernels, items = self.bench.kernels.items(), self.bench.items()
        self.has_gpu = torch.cuda.is_available()
        self.shipped = [item for item in items if self.bench.kernels[item.kernel].dtypes]
        self.on_host = list({(item.kernel, item.shape): replace(item, dtype=host_timing.DTYPE)
                             for item in items}.values())
        self.tiny = [Item(name, f"tiny {number}", dtype, case) for name, kernel in kernels
                     for number, case in enumerate(kernel.tiny) for dtype in TOLERANCES]
        self.executed = [item for item in self.tiny
                         if self.bench.full or item.dtype in self.bench.kernels[item.kernel].dtypes]
        targets = [target for target in EMULATED if target in self.bench.targets]
        sites = (None, *self.bench.other_tritons) if self.bench.full else (None,)
        self.execution = ExecutionStage(targets, sites, _NUM_SCHEDULES if self.bench.full else 1,
                                        self.bench.num_processes)
        self.times = JsonLines(self.folder / "times.jsonl")
        self.host_times = JsonLines(self.folder / HOST_TIMES)

    def run(self) -> None:
        bench = self.bench
        self.cases = floors(self.shipped, JsonLines(self.folder / "cases.jsonl"))
        if bench.targets:
            stage = CompileStage(bench.targets, bench.other_tritons, bench.full, bench.num_processes)
            stage.run(self.shipped, JsonLines(self.folder / "programs.jsonl"), self.compiled)
            self.failures += bench.guard(self.compiled)
        device = "cuda" if self.has_gpu else "cpu"
        file = JsonLines(self.folder / "verdicts.jsonl")
        for row in verdicts(self.tiny, device, bench.num_processes, file):
            self.judged.append(row)
        if self.execution.targets:
            for row in self.execution.run(self.executed, file):
                self.judged.append(row)
            self.failures += self.unexecuted()
        if self.has_gpu:
            num_left = TimingStage(bench.seconds - (time.monotonic() - self.began)).run(self.shipped, self.times)
            if num_left:
                console.print(f"{bench.seconds:.0f} s ended {num_left} times early; the same command goes on from here",
                              markup=False)
        elif bench.cpu_seconds:
            num_left = self.host_stage.run(self.on_host, self.host_times, host_timing.timed_on_host,
                                           host_timing.host_ceilings)
            if num_left:
                console.print(f"{bench.cpu_seconds:.0f} s ended {num_left} CPU times early; the same command goes on "
                              "from here", markup=False)

    def missing(self) -> list[str]:
        """The parts of a complete run that this one lacks."""
        parts = ["some programs"] if self.bench.targets and not self.compiled.is_whole else []
        num_verdicts = len(self.tiny) + self.execution.num_rows(self.executed)
        if len(self.judged) < num_verdicts:
            parts.append(f"{num_verdicts - len(self.judged)} of {num_verdicts} verdicts")
        if self.has_gpu:
            parts.append(f"{len(TimingStage(0).missing(self.shipped, self.times))} times")
        elif self.bench.cpu_seconds:
            parts.append(f"{len(self.host_stage.missing(self.on_host, self.host_times))} CPU times")
        return parts

    @property
    def host_stage(self) -> TimingStage:
        return TimingStage(self.bench.cpu_seconds, "cpu", is_host=True)

    def unexecuted(self) -> list[str]:
        """The Triton functions that ship and that no tiny case executed as compiled."""
        shipped = {record["function"] for record in self.compiled.records}
        executed = {function for row in self.judged for function in row.get("functions", ())}
        return [f"{function}: no tiny case executes it as compiled" for function in sorted(shipped - executed)]

    def report(self) -> list[str]:
        """Write the report, and print and return what failed."""
        judged = sorted(self.judged, key=lambda row: (row["kernel"], row["shape"], row["dtype"], row["ran"]))
        times = self.times.rows() if self.has_gpu else []
        host_times = [] if self.has_gpu else self.host_stage.current(self.on_host, self.host_times)
        timed = _latest([*times, *host_times])
        failures = self.failures + [f"{_item(row)}: {_wrong(row)}" for row in judged if not row["passed"]]
        failures += [f"{row['kernel']}, {row['shape']}, {row['dtype']}: {row['failed']}" for row in timed
                     if row["contender"] == OURS and "failed" in row]
        JsonLines(self.folder / OUTCOME).replace([{"has_gpu": self.has_gpu, "failures": failures, "cut": self.cut,
                                                   "provenance": provenance_on("none")}])
        path = write_report(self.folder, self.cases, self.compiled.records, judged, times, failures,
                            has_gpu=self.has_gpu, cut=self.cut, host_times=host_times)
        for failure in failures:
            console.print(f"- {failure}", markup=False, style="red")
        console.print(f"report: {path}", markup=False)
        return failures


def _shares(records: Sequence[Json]) -> str:
    """The number of programs for the main target per kernel; some are shared."""
    programs = {(record["kernel"], record["key"]) for record in records if record["target"] == MAIN_TARGET}
    counts = Counter(kernel for kernel, _ in programs)
    return ", ".join(f"{kernel} {count}" for kernel, count in counts.most_common())


def _triton_in(site: str) -> str:
    """The version of the Triton in a folder, without importing it."""
    file = Path(site) / "triton" / "__init__.py"
    match = re.search(r"^__version__ = ['\"]([^'\"]+)", file.read_text(), re.MULTILINE) if file.exists() else None
    if match is None:
        raise ValueError(f"other_tritons: {site!r} must be a folder that holds Triton: pip install --no-deps --target")
    return minor_version(match[1])


def _latest(rows: list[Json]) -> list[Json]:
    """The last row of each key: retries count once."""
    return list({row["key"]: row for row in rows}.values())


def _item(row: Json) -> str:
    """What a verdict is about."""
    return ", ".join(row[name] for name in ("kernel", "case", "dtype", "target") if name in row)


def _wrong(row: Json) -> str:
    if "failed" in row:
        return row["failed"]
    error = "not finite" if row["error"] is None else f"{row['error']:.1e}"
    return f"error {error}, allowed {row['tolerance']:.0e}; {row['integers_differ']} integers differ; ran {row['ran']}"
