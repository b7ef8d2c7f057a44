"""The step report, made from rows alone: a page and a table on the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from ...kernels.atomic_file import atomic_write
from ..harness.progress import console
from ..harness.records import Json

NO_GPU = "not measured: no GPU here"
NOT_ON_A_CPU = "a CPU has none"
DOES_NOT_FIT = "does_not_fit"

_ON_TERMINAL = {"context": "context", "short step": "step", "short head": "head", "ms": "ms", "floor ms": "floor ms",
                "% of floor": "%", "x AR": "x AR", "floor x AR": "floor x AR", "launches": "kernels",
                "launched ms": "launched", "GPU busy %": "busy %", "experts": "experts"}
_LEFT = ("short step", "short head")
_NOTES = """\
*ms* is the median of the replays of a CUDA graph of one step, on a CPU of steps taken, with the 20th and 80th
percentile; *floor* the larger of reading weights and stored keys and values once and of the products
on {card}.
*x AR* compares with the autoregressive step of the same context, head and kernels: the tokens a step must commit to
break even; *floor x AR* does so for the floors. *launched ms* is the same step launched from Python; *host gap* what
that takes more than the graph; *GPU busy* the share of it in which a kernel ran. *experts* are the distinct experts
that a layer touches, mean over layers, and in brackets what uniform and independent routing would touch; the floor of
a row that was timed counts those it touched. Weights and masked tokens are random. A model that does not fit the memory
that is free is not timed."""


@dataclass(frozen=True)
class Line:
    """A row of the table: the step, its roofline bounds, and its result or why there is none. `parameters` counts those
    of the layers' matrices: all, and those active at a position."""

    name: str
    parameters: tuple[int, int]
    context: int
    block: int | None
    head: str
    kernels: str
    floors: Json
    expected_experts: float | None
    result: Json

    @property
    def step(self) -> str:
        return "autoregressive" if self.block is None else f"block of {self.block}"

    def is_step_of(self, other: "Line") -> bool:
        """Whether it is the same step as the other line's, up to head and kernels."""
        return (self.name, self.context, self.block) == (other.name, other.context, other.block)

    @property
    def milliseconds(self) -> list[float] | None:
        """Median, 20th and 80th percentile of a replay, on a CPU of a step taken."""
        return self.launched if self.is_on_a_cpu else self.result.get("graph_ms")

    @property
    def is_on_a_cpu(self) -> bool:
        return self.result.get("no_graph") == NOT_ON_A_CPU

    @property
    def launched(self) -> list[float] | None:
        """The same for a step launched from Python."""
        return self.result.get("eager_ms")

    @property
    def failed(self) -> bool:
        """Whether timing was tried and failed; PyTorch's own operators need not support graph capture."""
        no_graph = self.kernels == "triton" and self.result.get("no_graph", NOT_ON_A_CPU) != NOT_ON_A_CPU
        return "failed" in self.result or no_graph

    @property
    def state(self) -> str | None:
        """Why there is no time; None if there is one."""
        if self.is_on_a_cpu:
            return None
        for name, words in (("state", ""), (DOES_NOT_FIT, ""), ("failed", "failed: "), ("no_graph", "no graph: ")):
            if name in self.result:
                return words + self.result[name]
        return None


def write_report(folder: Path, lines: Sequence[Line], provenances: Sequence[Json], card: str,
                 prediction: Sequence[str] = ()) -> Path:
    """Write report.md to `folder`, with the lines of a prediction at its end, print the table, and return the page's
    path. `card` has the floors. If nothing was timed, head and kernels make no difference and are left out."""
    if not provenances:
        lines = [line for place, line in enumerate(lines) if not any(line.is_step_of(other) for other in lines[:place])]
        lines = [replace(line, head="-", kernels="-") for line in lines]
    lines = sorted(lines, key=lambda line: (line.context, line.kernels != lines[0].kernels, line.head != lines[0].head,
                                            line.block or 0))
    names = list(dict.fromkeys(line.name for line in lines))
    page = ["# One denoising step against one autoregressive step", "", *_origins(provenances), "",
            _NOTES.format(card=card)]
    for name in names:
        own = [line for line in lines if line.name == name]
        cells = [_cells(line, lines) for line in own]
        used = [column for column in cells[0] if any(row[column] != "-" for row in cells)]
        columns = [column for column in used if column not in _LEFT]
        total, active = own[0].parameters
        page += ["", f"## {name}", "", f"{total / 1e6:,.0f}M parameters in the layers' matrices, {active / 1e6:,.0f}M "
                 "of them active at a position.", "", _row(columns), _row(["---"] * len(columns))]
        page += [_row([row[column] for column in columns]) for row in cells]
        page += ["", *(reasons := _reasons(own))]
        too_much = "floor x AR" if "x AR" in used else None
        _print(name, [column for column in used if column in _ON_TERMINAL and column != too_much], cells)
        for reason in reasons:
            console.print(reason, markup=False)
    page += prediction
    path = folder / "report.md"
    atomic_write(path, ("\n".join(page).rstrip() + "\n").encode())
    return path


def _origins(provenances: Sequence[Json]) -> list[str]:
    """The code, device and versions behind the rows, each once."""
    if not provenances:
        return [f"**{NO_GPU[0].upper()}{NO_GPU[1:]}.** What follows are floors."]
    found = []
    for origin in provenances:
        versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
        found.append(f"commit {origin['commit'][:12]}{' with changes' if origin['dirty'] else ''}, source "
                     f"{origin['source_hash']}; {origin['device']}, {origin['dtype']}; {versions}")
    return list(dict.fromkeys(found))


def _reasons(lines: Sequence[Line]) -> list[str]:
    """Why lines have no time: each reason once, with its lines."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.state not in (None, NO_GPU):
            found.setdefault(line.state, []).append(f"{line.context} {line.step} {line.head} {line.kernels}")
    return [f"- {reason} ({'; '.join(which)})" for reason, which in found.items()]


def _cells(line: Line, lines: Sequence[Line]) -> dict[str, str]:
    """A line's cells by column, "-" if empty."""
    beside = next((other for other in lines if other.block is None and (
        (other.name, other.context, other.head, other.kernels) == (line.name, line.context, line.head, line.kernels))),
        None)
    times, floor_ms = line.milliseconds, line.floors["floor_ms"]
    median = times[0] if times else None
    launched = line.launched[0] if line.launched else None
    busy, touched = line.result.get("busy_ms"), line.result.get("distinct_experts")
    experts = "-"
    if line.expected_experts is not None:
        mean = f"{sum(touched) / len(touched):.1f} " if touched else ""
        experts = f"{mean}({line.expected_experts:.1f})"
    return {
        "context": str(line.context), "step": line.step, "head": line.head, "kernels": line.kernels,
        "short step": "AR" if line.block is None else f"block {line.block}",
        "short head": line.head + (", PyTorch" if line.kernels == "reference" else ""),
        "ms": _number(median, ".3f"), "p20 - p80": f"{times[1]:.3f} - {times[2]:.3f}" if times else "-",
        "floor ms": _number(floor_ms, ".3f"), "bound": line.floors["bound"],
        "% of floor": _number(_ratio(floor_ms, median), ".0%").rstrip("%"),
        "x AR": _number(_ratio(median, beside and beside.milliseconds and beside.milliseconds[0]), ".2f"),
        "floor x AR": _number(_ratio(floor_ms, beside and beside.floors["floor_ms"]), ".2f"),
        "launches": _number(line.result.get("num_kernels"), ",d"),
        "launched ms": "-" if line.is_on_a_cpu else _number(launched, ".3f"),
        "host gap ms": "-" if median is None or launched is None or line.is_on_a_cpu else f"{launched - median:.3f}",
        "GPU busy %": _number(_ratio(busy, launched), ".0%").rstrip("%"), "experts": experts}


def _ratio(value: float | None, base: Any) -> float | None:
    return value / base if value is not None and base else None


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _print(name: str, columns: Sequence[str], cells: Sequence[dict[str, str]]) -> None:
    shown = Table(title=name, title_justify="left", box=None, header_style="bold", padding=(0, 1))
    for column in columns:
        shown.add_column(_ON_TERMINAL[column], justify="left" if column in _LEFT else "right", no_wrap=True)
    for row in cells:
        shown.add_row(*(row[column] for column in columns))
    console.print(shown)
