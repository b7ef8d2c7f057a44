"""The rows of CPU times, for a page and a terminal, from records alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from .rows import OURS, Json


@dataclass(frozen=True)
class HostRow:
    """One implementation on one shape. `percent` is of what the machine sustains; times are median microseconds."""

    kernel: str
    shape: str
    contender: str
    state: str
    cold_us: float | None = None
    warm_us: float | None = None
    gigabytes_per_second: float | None = None
    gigaflops_per_second: float | None = None
    percent: float | None = None
    along: tuple[str, str, int] | None = None
    dtype: str = "float32"

    @property
    def median_us(self) -> float | None:
        """Of the cold clock, or else of the warm one."""
        return self.cold_us or self.warm_us


def host_rows(rows: Sequence[Json]) -> Iterator[HostRow]:
    """Of the rows of a run, the last of each measurement, ours before its peers."""
    latest = list({row["key"]: row for row in rows}.values())
    peak = next((row for row in reversed(latest) if row["contender"] == "ceilings" and "failed" not in row), None)
    of_cases = [row for row in latest if row["contender"] != "ceilings"]
    for row in sorted(of_cases, key=lambda row: (row["kernel"], row["shape"], row["contender"] != OURS)):
        name = row["kernel"], row["shape"], row["contender"]
        measured = row.get("cold_us") or row.get("warm_us")
        if measured is None:
            reasons = (row[reason] for reason in ("same", "skipped", "failed") if reason in row)
            yield HostRow(*name, next(reasons, "not measured"))
            continue
        seconds, cold, warm = measured[0] / 1e6, row.get("cold_us"), row.get("warm_us")
        percent = None
        if peak is not None:
            least = max(row["num_bytes"] / peak["bytes_per_second"], row["num_flops"] / peak["flops_per_second"])
            percent = 100 * least / seconds
        yield HostRow(*name, "measured", cold and cold[0], warm and warm[0], row["num_bytes"] / seconds / 1e9,
                      row["num_flops"] / seconds / 1e9, percent, row.get("along"))


def host_table(rows: Sequence[HostRow]) -> Table:
    """The rows for a terminal."""
    shown = Table("kernel", "shape", "runs", title="on this CPU, float32", title_justify="left", box=None,
                  header_style="bold")
    for name in ("cold us", "warm us", "GB/s", "GFLOP/s", "% of this machine"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        if row.state != "measured":
            shown.add_row(row.kernel, escape(row.shape), row.contender, escape(row.state))
            continue
        numbers = row.cold_us, row.warm_us, row.gigabytes_per_second, row.gigaflops_per_second, row.percent
        shown.add_row(row.kernel, escape(row.shape), row.contender, *("-" if value is None else f"{value:.3g}"
                                                              for value in numbers))
    return shown
