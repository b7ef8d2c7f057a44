"""The kernel report, made from records alone: a page, a figure, two CSV files and a table on the terminal.

    python -m quicksilver.experiments experiment=kernel_report experiment.records=results/kernels output=again
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment
from rich.table import Table

from ...kernels.atomic_file import atomic_write
from ..harness.json_lines import JsonLines
from ..harness.progress import console
from .crossover import crossover, curves
from .figure import roofline
from .host_rows import host_rows, host_table
from .rows import (
    CLOCKS_AGREE_WITHIN,
    NO_GPU,
    OURS,
    SHARE_FROM_US,
    Json,
    TimeRow,
    kernel_lines,
    program_rows,
    programs_csv,
    time_rows,
    times_csv,
)

OUTCOME, HOST_TIMES = "outcome.jsonl", "host_times.jsonl"
"""The files with the outcome of a run (has_gpu, failures, and what is missing if it was cut), and with CPU times."""


@dataclass(frozen=True)
class KernelReport:
    """The experiment that rewrites the report of a run; `records` is the folder of the run's JSON lines."""

    records: str

    def check(self) -> None:
        """ValueError if the folder has no run."""
        if not (Path(self.records) / OUTCOME).is_file():
            raise ValueError(f"records={self.records!r}: must be a folder that kernel_bench wrote ({OUTCOME})")

    def run(self, folder: Path) -> int:
        """Write the report to `folder`. Returns 0."""
        cases, programs, verdicts, times, host_times, (outcome,) = (
            JsonLines(Path(self.records) / name).rows()
            for name in ("cases.jsonl", "programs.jsonl", "verdicts.jsonl", "times.jsonl", HOST_TIMES, OUTCOME))
        page = write_report(folder, cases, programs, verdicts, times, outcome["failures"], has_gpu=outcome["has_gpu"],
                            cut=outcome["cut"], host_times=host_times)
        console.print(f"report: {page}", markup=False)
        return 0


def write_report(folder: Path, cases: Sequence[Json], compiled: Sequence[Json], verdicts: Sequence[Json],
                 times: Sequence[Json], failures: Sequence[str], *, has_gpu: bool, cut: str | None = None,
                 host_times: Sequence[Json] = ()) -> Path:
    """Write report.html, roofline.png, programs.csv and times.csv to `folder`, and along an axis crossover.png, print a
    line per kernel, and return the page's path. `cut` names what an interrupted run lacks; its report has no figure, to
    save time."""
    no_times = None if has_gpu else NO_GPU
    verdicts = sorted(verdicts, key=lambda row: (row["kernel"], row["shape"], row["dtype"], row["ran"]))
    rows, on_host = time_rows(cases, times, no_times), list(host_rows(host_times))
    origins = [*_origins((*cases, *compiled, *verdicts, *times)), *_origins(host_times, on_cpu="timed")]
    images = {}
    if rows and not cut:
        images["roofline"] = roofline(rows, origins, no_times)
    lines = curves((*(row for row in rows if row.median_us), *on_host))
    if lines and not cut:
        images["crossover"] = crossover(lines, origins)
    for name, image in images.items():
        atomic_write(folder / f"{name}.png", image)
    atomic_write(folder / "programs.csv", programs_csv(compiled).encode())
    atomic_write(folder / "times.csv", times_csv(rows).encode())
    template = resources.files("quicksilver.experiments").joinpath("kernel_bench/page.html.j2").read_text()
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template).render(
        origins=origins, failures=failures, cut=cut, no_times=no_times, on_host=on_host,
        images={name: base64.b64encode(image).decode() for name, image in images.items()},
        lines=kernel_lines(compiled, verdicts, rows), programs=program_rows(compiled), verdicts=verdicts,
        rows=[row for row in rows if row.contender == OURS or has_gpu], ours=OURS, beside=_beside(cases),
        share_from=SHARE_FROM_US, clocks_agree_within=CLOCKS_AGREE_WITHIN,
        ceilings=next((row for row in reversed(times) if row["contender"] == "ceilings" and "failed" not in row), None),
        tritons=list(dict.fromkeys(record["triton"] for record in compiled)))
    path = folder / "report.html"
    atomic_write(path, page.encode())
    if rows:
        _print(kernel_lines(compiled, verdicts, rows), rows)
    if on_host:
        console.print(host_table(on_host))
    return path


def _origins(records: Sequence[Json], on_cpu: str = "interpreted") -> list[str]:
    """The code, machine and versions behind the records, each once; `on_cpu` is what a CPU did."""
    found = []
    for record in records:
        origin = record["provenance"]
        where = {"none": "compiled only", "cpu": f"{on_cpu} on {origin['machine']['cpu']}"}
        driver = record.get("hardware", {}).get("driver_version")
        tiles = f", tiles {origin['tiles']}" if "tiles" in origin else ""  # a record of before has no table
        versions = ", ".join(f"{name} {version}" for name, version in sorted(origin["versions"].items()))
        found.append(f"commit {origin['commit'][:12]}{' with changes' if origin['dirty'] else ''}, source "
                     f"{origin['source_hash']}{tiles}; {where.get(origin['device'], origin['device'])}"
                     f"{f', driver {driver}' if driver else ''}; {versions}")
    return list(dict.fromkeys(found))


def _beside(cases: Sequence[Json]) -> dict[tuple[str, str], str]:
    """The peers of each shape, as text."""
    return {(case["kernel"], case["shape"]): ", ".join(
        name if is_installed else f"{name} (not installed)" for name, is_installed in sorted(case["peers"].items()))
        for case in cases}


def _print(lines: Sequence[Json], rows: Sequence[TimeRow]) -> None:
    """Print a line per kernel: its programs for sm_90, checks, roofline bounds and, if measured, times."""
    shown = _table("sm_90", ("programs", "registers", "spills", "KiB", "products", "128-bit", "right", "floor us"))
    for line in lines:
        shown.add_row(line["kernel"], str(line["num_programs"]), _number(line["registers"]),
                      _number(line["spill_bytes"]), _number(line["shared_kib"]), ", ".join(line["tensor_core"]) or "-",
                      {True: "yes", False: "no", None: "-"}[line["wide_loads"]],
                      f"{line['num_right']}/{line['num_verdicts']}", _range(line["floor_us"], ".3g"))
    console.print(shown)
    if not any(row.median_us for row in rows):
        console.print(f"times: {rows[0].state if rows else 'none'}", markup=False)
        return
    shown = _table("replays, median", ("floor us", "time us", f"% of floor over {SHARE_FROM_US} us"))
    for line in lines:
        shown.add_row(line["kernel"], *(_range(line[name], form) for name, form in (
            ("floor_us", ".3g"), ("times_us", ".3g"), ("percent_of_floor", ".0f"))))
    console.print(shown)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 1))
    table.add_column("kernel", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _range(ends: tuple[float, float] | None, form: str) -> str:
    if ends is None:
        return "-"
    return " to ".join("<0.001" if 0 < end < 0.001 else f"{end:{form}}" for end in ends)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
