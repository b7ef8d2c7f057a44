"""The tables of a kernel report, computed from records alone: times and roofline bounds, programs, a line per kernel.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .limits import MAIN_TARGET, TARGETS

Json = dict[str, Any]

OURS = "quicksilver"
NO_GPU = "not measured: no GPU here"
SHARE_FROM_US = 30  # a shorter bound is below launch overhead: its share is meaningless
_NOT_REACHED = "not measured: the time budget ended"
_NOT_INSTALLED = "not installed"
_BELOW_FLOOR = "rejected: below the floor"
_MOST_PERCENT = 105  # of the floor, which is a physical limit but for what its bandwidth was rounded to
_CLOCKS = ("cold_us", "warm_us", "flushed_us")
CLOCKS_AGREE_WITHIN = 1.25
"""How many times the longer of two medians may be the shorter where the clocks agree."""
_LAUNCHED = "launched from Python only"


@dataclass(frozen=True)
class TimeRow:
    """One implementation on one shape. A clock's times are microseconds: median, 20th and 80th percentile, or None;
    `state` gives the reason if nothing was measured."""

    kernel: str
    shape: str
    dtype: str
    contender: str
    num_bytes: int
    num_flops: int
    floor_us: float
    bound: str
    state: str
    cold_us: list[float] | None = None
    warm_us: list[float] | None = None
    flushed_us: list[float] | None = None
    error: float | None = None
    source_hash: str = ""
    notes: str = ""
    is_on_floor_card: bool = False
    ceilings: Json = field(default_factory=dict)
    along: tuple[str, str, int] | None = None

    @property
    def median_us(self) -> float | None:
        """The median of graph replays, with a cold cache if measured, else warm. Never of launches from Python, which
        use another clock."""
        times = self.cold_us or self.warm_us
        return times[0] if times else None

    @property
    def cache(self) -> str | None:
        """The state of the cache for the median."""
        return None if self.median_us is None else "cold" if self.cold_us else "warm"

    @property
    def clock_ratio(self) -> float | None:
        """Launched from Python over replayed in a graph."""
        return clock_ratio(self.flushed_us, self.cold_us or self.warm_us)

    @property
    def clocks_disagree(self) -> bool | None:
        """Whether the two clocks differ by more than CLOCKS_AGREE_WITHIN; None where one of them is missing."""
        return clocks_disagree(self.clock_ratio)

    @property
    def terabytes_per_second(self) -> float | None:
        return self.num_bytes / self.median_us / 1e6 if self.median_us else None

    @property
    def teraflops_per_second(self) -> float | None:
        return self.num_flops / self.median_us / 1e6 if self.median_us and self.num_flops else None

    @property
    def percent_of_floor(self) -> float | None:
        """Roofline bound over time: 100 is the physical limit. Only for the card that the bound is computed for."""
        return 100 * self.floor_us / self.median_us if self.median_us and self.is_on_floor_card else None

    @property
    def percent_of_ceiling(self) -> float | None:
        """The same against the measured peaks of this card."""
        if not self.median_us or not self.ceilings:
            return None
        least = max(self.num_bytes / self.ceilings["bytes_per_second"],
                    self.num_flops / self.ceilings["flops_per_second"] if self.dtype != "float32" else 0.0)
        return 100 * 1e6 * least / self.median_us


def clock_ratio(launched_us: Sequence[float] | None, replayed_us: Sequence[float] | None) -> float | None:
    """The median launched from Python over that replayed in a graph; None where either was not measured."""
    return launched_us[0] / replayed_us[0] if launched_us and replayed_us else None


def clocks_disagree(ratio: float | None) -> bool | None:
    """Whether a `clock_ratio` is beyond CLOCKS_AGREE_WITHIN, either way. Above it launching takes a good part of the
    time, as of small kernels; below it one of the clocks is wrong."""
    return None if ratio is None else not 1 / CLOCKS_AGREE_WITHIN <= ratio <= CLOCKS_AGREE_WITHIN


def time_rows(cases: Sequence[Json], times: Sequence[Json], no_times: str | None) -> list[TimeRow]:
    """Every implementation of every shape, in the order of the cases: ours first, then by name."""
    latest = {(row.get("kernel"), row.get("shape"), row.get("dtype"), row["contender"]): row for row in times}
    ceilings = latest.get((None, None, None, "ceilings"), {})
    found = []
    for case in cases:
        for contender, is_installed in ((OURS, True), *sorted(case["peers"].items())):
            row = latest.get((case["kernel"], case["shape"], case["dtype"], contender), {})
            known = {name: row[name] for name in _CLOCKS if row.get(name)}
            state = "measured" if known else no_times or (_failure(row) if row else _NOT_REACHED)
            if list(known) == ["flushed_us"]:
                state = _LAUNCHED
            if not is_installed:
                state = _NOT_INSTALLED
            found.append(TimeRow(
                case["kernel"], case["shape"], case["dtype"], contender, case["num_bytes"], case["num_flops"],
                case["floor_us"], case["bound"], state, error=row.get("gate", {}).get("error"),
                source_hash=case["source_hash"], notes=row.get("no_graph") or row.get("no_cold") or "",
                is_on_floor_card="H200" in row.get("provenance", {}).get("device", ""),
                ceilings={} if "failed" in ceilings else ceilings, along=case.get("along"), **known))
            if (found[-1].percent_of_floor or 0) > _MOST_PERCENT:
                found[-1] = replace(found[-1], state=_BELOW_FLOOR, **dict.fromkeys(known))
    return found


def _failure(row: Json) -> str:
    return f"failed: {row['failed']}" if "failed" in row else _NOT_REACHED


def kernel_lines(records: Sequence[Json], verdicts: Sequence[Json], rows: Sequence[TimeRow]) -> list[Json]:
    """A line per kernel: the worst of its programs for the main target, of its checks, and of its times."""
    lines = []
    for kernel in dict.fromkeys(row.kernel for row in rows):
        programs = [record for record in records if record["kernel"] == kernel and record["target"] == MAIN_TARGET]
        own = [row for row in verdicts if row["kernel"] == kernel]
        ours = [row for row in rows if row.kernel == kernel and row.contender == OURS]
        medians = [row.median_us for row in ours if row.median_us]
        shares = [row.percent_of_floor for row in ours if row.percent_of_floor and row.floor_us > SHARE_FROM_US]
        lines.append({
            "kernel": kernel, "num_programs": len({record["key"] for record in programs}),
            "registers": max((record["registers"] for record in programs), default=None),
            "spill_bytes": max((record["spill_bytes"] for record in programs), default=None),
            "shared_kib": max((record["shared_bytes"] / 1024 for record in programs), default=None),
            "tensor_core": sorted({name for record in programs for name in record["tensor_core"]}),
            "wide_loads": _all_wide(programs), "num_right": sum(row["passed"] for row in own),
            "num_verdicts": len(own), "compile_seconds": sum(record["compile_seconds"] for record in programs),
            "floor_us": (min(row.floor_us for row in ours), max(row.floor_us for row in ours)),
            "times_us": (min(medians), max(medians)) if medians else None,
            "percent_of_floor": (min(shares), max(shares)) if shares else None, "state": ours[0].state})
    return lines


def _all_wide(programs: Iterable[Json]) -> bool | None:
    verdicts = [record["wide_loads"] for record in programs
                if record["needs_wide_loads"] and record["wide_loads"] is not None]
    return all(verdicts) if verdicts else None


def program_rows(records: Sequence[Json]) -> list[Json]:
    """The compile records in the order of the report, with their target's resources."""
    order = list(TARGETS)
    return [record | {"shared_limit": TARGETS[record["target"]].shared_per_block,
                      "num_shapes": len(record["shapes"])}
            for record in sorted(records, key=lambda record: (record["kernel"], order.index(record["target"]),
                                                              record["label"], record["triton"]))]


_PROGRAM_COLUMNS = ("kernel", "target", "triton", "label", "key", "registers", "spill_store_bytes", "spill_load_bytes",
                    "stack_bytes", "shared_bytes", "shared_limit", "tensor_memory_columns", "num_warps", "blocks",
                    "occupancy", "tensor_core", "loads", "loop_loads", "wide_loads", "needs_wide_loads", "code_bytes",
                    "compile_seconds", "source_hash", "shapes")
_TIME_COLUMNS = ("kernel", "shape", "dtype", "contender", "state", "floor_us", "bound", "num_bytes", "num_flops",
                 "error", "median_us", "cache", "clock_ratio", "clocks_disagree", "terabytes_per_second",
                 "teraflops_per_second", "percent_of_floor", "percent_of_ceiling", "source_hash", "notes")


def programs_csv(records: Sequence[Json]) -> str:
    """The compile records, one line per program, target and Triton version."""
    return _csv(_PROGRAM_COLUMNS, ([_text(row[name]) for name in _PROGRAM_COLUMNS] for row in program_rows(records)))


def times_csv(rows: Sequence[TimeRow]) -> str:
    """The times, one line per implementation and shape, each clock with its median, p20 and p80."""
    columns = [*_TIME_COLUMNS, *(f"{clock}_{part}" for clock in _CLOCKS for part in ("median", "p20", "p80"))]
    return _csv(columns, ([*(_text(getattr(row, name)) for name in _TIME_COLUMNS),
                           *(_text(value) for clock in _CLOCKS for value in getattr(row, clock) or [None] * 3)]
                          for row in rows))


def _csv(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return text.getvalue()


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} x{count}" for name, count in sorted(value.items()))
    if isinstance(value, list):
        return "; ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)
