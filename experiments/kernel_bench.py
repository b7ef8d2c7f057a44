"""The kernels' benchmark: python -m quicksilver.experiments experiment=kernel_bench [kernel=[rms_norm,...]] [full=true]

Without a GPU it compiles every shipped configuration, holds what they take against hard limits and a baseline, states
the physical floor of every shape, and checks results in Triton's interpreter; with one it times kernels and peers.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import triton

from ..kernels.case import Case
from ..kernels.checks import check_integer, check_real
from .json_lines import JsonLines
from .kernel_baseline import HOW_TO_UPDATE, Baseline, minor_version
from .kernel_gate import TOLERANCES
from .kernel_limits import MAIN_TARGET, MAX_CONFIGURATIONS, TARGETS, missing_tensor_core, violations
from .kernel_report import write_report
from .kernel_stages import Compiled, CompileStage, Item, TimingStage, floors, verdicts
from .kernel_tables import OURS
from .progress import console
from .records import Json

_CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class KernelCases:
    """A kernel's part of the benchmark: the input types it ships for, tiny cases for its verdict, and named shapes."""

    dtypes: list[str]
    tiny: list[Case]
    shapes: dict[str, Case]

    def __post_init__(self) -> None:
        for dtype in self.dtypes:
            if dtype not in TOLERANCES:
                raise ValueError(f"dtypes={self.dtypes!r}: must be of {', '.join(TOLERANCES)}")


@dataclass(frozen=True)
class KernelBench:
    """The experiment. `other_tritons` are folders that hold another Triton each; `targets` are compiled for, none to
    leave that out; `baseline` is the folder of the guard's files; `seconds` bound the timing on a GPU."""

    kernels: dict[str, KernelCases]
    targets: list[str]
    other_tritons: list[str]
    full: bool
    update_baseline: bool
    baseline: str
    seconds: float
    num_processes: int

    def check(self) -> None:
        """ValueError for a target or a folder that is not there, or a Triton that is there twice."""
        check_integer("num_processes", self.num_processes)
        check_real("seconds", self.seconds, at_least=0)
        if self.targets and not self.update_baseline and not self.baseline_folder.is_dir():
            raise ValueError(f"baseline={self.baseline!r}: must be a folder, here or in {_CHECKOUT}; "
                             "update_baseline=true makes it")
        for target in self.targets:
            if target not in TARGETS:
                raise ValueError(f"targets={self.targets!r}: must be of {', '.join(TARGETS)}")
        found = [minor_version(triton.__version__), *map(_triton_in, self.other_tritons)]
        if len(set(found)) < len(found):
            raise ValueError(f"other_tritons={self.other_tritons!r}: must hold versions other than each other's and "
                             f"this environment's; found {', '.join(found)}")

    @property
    def baseline_folder(self) -> Path:
        """The baseline's folder in the current one; where it is not there, in the checkout that holds this file."""
        own = _CHECKOUT / self.baseline
        return own if own.is_dir() and not Path(self.baseline).exists() else Path(self.baseline)

    def run(self, folder: Path) -> int:
        """Run the stages and write the report to `folder`/kernels. Returns how much failed."""
        folder = folder / "kernels"
        has_gpu = torch.cuda.is_available()
        device = "cuda" if has_gpu else "cpu"
        shipped = [Item(name, shape, dtype, case) for name, kernel in self.kernels.items()
                   for dtype in kernel.dtypes for shape, case in kernel.shapes.items()]
        tiny = [Item(name, f"tiny {number}", dtype, case) for name, kernel in self.kernels.items()
                for number, case in enumerate(kernel.tiny) for dtype in TOLERANCES]
        cases = floors(shipped, JsonLines(folder / "cases.jsonl"))
        compiled, failures = Compiled(), []
        if self.targets:
            stage = CompileStage(self.targets, self.other_tritons, self.full, self.num_processes)
            compiled = stage.run(shipped, JsonLines(folder / "programs.jsonl"))
            failures = self._guard(compiled)
        judged = verdicts(tiny, device, self.num_processes, JsonLines(folder / "verdicts.jsonl"))
        failures += [f"{row['kernel']}, {row['case']}, {row['dtype']}: {_wrong(row)}" for row in judged
                     if not row["passed"]]
        times = JsonLines(folder / "times.jsonl")
        if has_gpu:
            TimingStage(self.seconds, device).run(shipped, times)
            failures += [f"{row['kernel']}, {row['shape']}, {row['dtype']}: {row['failed']}"
                         for row in _latest(times.rows()) if row["contender"] == OURS and "failed" in row]
        path = write_report(folder, cases, compiled.records, judged, times.rows() if has_gpu else [], failures,
                            has_gpu=has_gpu)
        for failure in failures:
            console.print(f"- {failure}", markup=False, style="red")
        console.print(f"report: {path}", markup=False)
        return len(failures)

    def _guard(self, compiled: Compiled) -> list[str]:
        """What breaks a limit or is worse than the baseline, which is written instead if that was asked for."""
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
        worse = baseline.regressions(compiled.records, compiled.existing)
        return found + ([*worse, HOW_TO_UPDATE] if worse else [])


def _shares(records: Sequence[Json]) -> str:
    """How many programs for the main target each kernel uses; some are shared."""
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
    """The last row of each key: what was tried again counts once."""
    return list({row["key"]: row for row in rows}.values())


def _wrong(row: Json) -> str:
    if "failed" in row:
        return row["failed"]
    error = "not finite" if row["error"] is None else f"{row['error']:.1e}"
    return f"error {error}, allowed {row['tolerance']:.0e}; {row['integers_differ']} integers differ; ran {row['ran']}"
